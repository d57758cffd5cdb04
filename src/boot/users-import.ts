import { chmod, readFile, writeFile } from 'node:fs/promises'
import process from 'node:process'
import { parseArgs } from 'node:util'
import { type Config, parseConfig } from '../config.ts'
import { type ImportOutcome, importUsers } from '../identity/import/import.ts'
import { createImportStore } from '../identity/import/import-store.ts'
import { readUsers, type SourceName, sourceNames, TableMissing } from '../identity/import/sources.ts'
import { FileRefused, readTables, type SourceTable } from '../identity/import/tables.ts'
import { createLog } from '../platform/log.ts'
import { connectOnce } from '../platform/postgres.ts'
import { openDatabase } from './open-database.ts'
import { prepareDatabase } from './prepare-database.ts'
import { describeStartFailure } from './start-failure.ts'

const usage = `bun run users:import --from ${sourceNames.join('|')} [--report FILE] [--check] FILE...
  Imports the users of another system with their password hashes into the database of the configuration. Everything is
  committed together, or nothing. Users that cannot be imported are listed, each with the reason.
  FILE              a plain dump with COPY statements (.sql), JSON (.json), JSON lines (.jsonl, .ndjson) or CSV (.csv); a
                    file of one table has the name of the table, such as user.json and account.json
  --report FILE     writes one JSON object a line for each user: its id there, and its new id or the reason
  --check           writes nothing to the database
It ends with the status 0 when every user was imported, with 2 when users were refused, and with 1 when nothing was imported
because of another failure.`

/** How many refused users are listed on the terminal. The report has all. */
const maxListed = 20

const report = (line: string): void => console.error(line)
const figure = (value: number) => value.toLocaleString('en')

/** The arguments are wrong. */
class Misused extends Error {
  override readonly name = 'Misused'
}

type Order = {
  readonly source: SourceName
  readonly files: readonly string[]
  readonly report: string | undefined
  readonly checkOnly: boolean
}

const parseOrder = (args: readonly string[]): Order => {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      from: { type: 'string' },
      report: { type: 'string' },
      check: { type: 'boolean' },
      help: { type: 'boolean' },
    },
  })
  if (values.help) {
    console.log(usage)
    process.exit(0)
  }
  const source = sourceNames.find((name) => name === values.from)
  if (source === undefined) throw new Misused(`--from must be one of ${sourceNames.join(', ')}`)
  if (positionals.length === 0) throw new Misused('A file must be given')
  return { source, files: positionals, report: values.report, checkOnly: values.check ?? false }
}

/** The tables of all files. */
const readFiles = async (files: readonly string[]): Promise<Map<string, SourceTable>> => {
  const tables = new Map<string, SourceTable>()
  for (const file of files) {
    try {
      for (const [name, table] of readTables(file, await readFile(file, 'utf8'))) tables.set(name, table)
    } catch (error) {
      if (error instanceof FileRefused) throw new Misused(`${file} ${error.message}`)
      if (error instanceof Error && 'code' in error) throw new Misused(`${file} cannot be read (${error.code})`)
      throw error
    }
  }
  return tables
}

const summarize = (outcomes: readonly ImportOutcome[], checkOnly: boolean, seconds: string): string => {
  const imported = outcomes.filter(({ outcome }) => outcome === 'imported')
  const withoutPassword = imported.filter((each) => each.outcome === 'imported' && !each.hasPassword).length
  const refused = outcomes.filter((each) => each.outcome === 'refused')
  const verb = checkOnly ? 'Would import' : 'Imported'
  const lines = [
    `${verb} ${figure(imported.length)} of ${figure(outcomes.length)} users in ${seconds} s.`,
    ...(withoutPassword > 0
      ? [`${figure(withoutPassword)} of them have no password there, and set one by a password reset.`]
      : []),
    ...(refused.length > 0 ? [`${figure(refused.length)} were refused:`] : []),
    ...refused
      .slice(0, maxListed)
      .map(({ place, sourceId, reason }) => `  ${place} (${sourceId || 'no id'}): ${reason}`),
    ...(refused.length > maxListed
      ? [`  and ${figure(refused.length - maxListed)} more; --report lists them all`]
      : []),
  ]
  return lines.join('\n')
}

const run = async (order: Order, config: Config): Promise<readonly ImportOutcome[]> => {
  const startedMs = performance.now()
  const elapsed = () => ((performance.now() - startedMs) / 1_000).toFixed(1)
  const now = new Date()
  const tables = await readFiles(order.files)
  const unreadable = [...tables.values()].flatMap(({ refused }) => refused)
  const users = readUsers(order.source, tables, now)
  const log = createLog(config.logLevel)
  const { connection, stop } = await openDatabase(config, log, report)
  try {
    const { route } = await prepareDatabase(connection, config, log, report)
    const sql = connectOnce(connection, route)
    try {
      const { outcomes } = await importUsers({
        store: createImportStore(sql),
        users,
        now,
        write: !order.checkOnly,
        onProgress: (done) => report(`${elapsed().padStart(7)}  ${figure(done)} of ${figure(users.length)} users`),
      })
      const all: ImportOutcome[] = [
        ...unreadable.map(({ place, reason }) => ({ place, sourceId: '', outcome: 'refused' as const, reason })),
        ...outcomes,
      ]
      if (order.report !== undefined) {
        const lines = all.map(({ sourceId, ...rest }) => `${JSON.stringify({ source_id: sourceId, ...rest })}\n`)
        await writeFile(order.report, lines.join(''), { mode: 0o600 })
        // An earlier report keeps its mode.
        await chmod(order.report, 0o600)
      }
      console.log(summarize(all, order.checkOnly, elapsed()))
      return all
    } finally {
      await sql.end({ timeout: 1 })
    }
  } finally {
    await stop()
  }
}

const main = async (): Promise<void> => {
  let config: Config | undefined
  try {
    const order = parseOrder(process.argv.slice(2))
    config = parseConfig(process.env)
    for (const note of config.notes) report(`${note}.`)
    const outcomes = await run(order, config)
    if (outcomes.some(({ outcome }) => outcome === 'refused')) process.exitCode = 2
  } catch (error) {
    const isMisused = error instanceof Misused || (error instanceof TypeError && 'code' in error)
    if (isMisused) report(`${error.message}\n\n${usage}`)
    else if (error instanceof TableMissing) report(`The files ${error.message}.`)
    else report(describeStartFailure(error, config) ?? '')
    process.exitCode = 1
  }
}

void main()
