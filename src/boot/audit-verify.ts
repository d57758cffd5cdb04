import process from 'node:process'
import { parseArgs } from 'node:util'
import { createAuditSource } from '../audit/event.ts'
import { createAuditKeys } from '../audit/keys.ts'
import { type AuditProblem, ForeignHead, maxProblems, problemKinds, verifyAudit } from '../audit/verify.ts'
import { withSnapshot } from '../audit/verify-store.ts'
import { type Config, parseConfig } from '../config.ts'
import { checkServer, retryWhileBusy } from '../platform/first-connection.ts'
import { createLog } from '../platform/log.ts'
import { MigrationRefused, requireMigrated } from '../platform/migrate.ts'
import { connectOnce } from '../platform/postgres.ts'
import { findRoute } from '../platform/route.ts'
import { createSecrets } from '../platform/secrets.ts'
import { createSecretStore } from '../secrets/store.ts'
import { openWrappedKeys } from '../secrets/wrapped-keys.ts'
import { openDatabase } from './open-database.ts'
import { describeStartFailure } from './start-failure.ts'

const usage = `bun run audit:verify [--head HEAD]... [--json]
  Verifies the audit log in the database of the configuration, and locates every event that was altered, removed, swapped or
  inserted. HEAD is a signed head that left the database before, such as one that the log has (audit.head): with it a log is found
  that was cut at its end. Changes nothing, and needs no right but to read. Ends with 0 where the log is intact, with 1 where it is
  not, and with 2 where it could not be verified.`

const report = (line: string): void => console.error(line)

/** A line for a problem, with the place to look at. */
const toLine = ({ problem, month, sequence, to, event_id, event_at }: AuditProblem): string => {
  const first = sequence ?? to
  const places =
    to === undefined || to === first ? `link ${first}` : `links ${first} to ${to} (${to - Number(first) + 1})`
  const where = [
    `month ${month.slice(0, 7)}`,
    ...(first === undefined ? [] : [places]),
    ...(event_id === undefined ? [] : [`event ${event_id}`]),
    ...(event_at === undefined ? [] : [`recorded at ${event_at}`]),
  ]
  return `${problem}: ${problemKinds[problem]}. Where: ${where.join(', ')}.`
}

const advice = `What to do: keep a copy of this database and of the logs of the service before anything changes them. Compare the events named
above with what the SIEM received, or with a backup. src/audit/README.md says what each problem means.`

const headHint = `No head was given, so a log that was cut at its end would look the same. To find that out, give --head the newest head that
left the database: from the log of the service (audit.head), or from the SIEM (unmapped.chain_head).`

const foreignHead = ({ place }: ForeignHead): string =>
  `The ${place === 1 ? '' : `${place}. `}head given by --head was not signed by this service. Check that it was copied whole, and that DATABASE_URL and SECRET are those of the service that wrote it. If they are, its key was removed from the table audit_keys.`

const toReport = (found: Awaited<ReturnType<typeof verifyAudit>>, heads: number): string[] => {
  const { problems, verified, pending, erased, head } = found
  const counts = `${verified} linked events verified, ${pending} not linked yet, ${erased} without their erased personal data`
  const isIntact = problems.length === 0
  return [
    ...problems.map(toLine),
    ...(problems.length < maxProblems ? [] : [`Only the first ${maxProblems} problems are listed.`]),
    `${isIntact ? 'The audit log is intact' : 'The audit log is not intact'}: ${counts}.`,
    ...(isIntact ? [] : [advice]),
    ...(heads === 0 ? [headHint] : []),
    ...(head === null ? [] : [`Newest head: ${head}`]),
  ]
}

const verify = async (config: Config, heads: readonly string[]) => {
  const log = createLog(config.logLevel)
  const { connection, secret, stop } = await openDatabase(config, log, report)
  try {
    await retryWhileBusy(() => checkServer(connection, 'DATABASE_URL', log), { connection, report })
    const sql = connectOnce(connection, await findRoute(connection))
    try {
      await requireMigrated(sql)
      const secrets = createSecrets(secret, config.previousSecret)
      const addWrappedKeys = () => {
        throw new MigrationRefused(
          'The database has no keys to verify the audit log with: no instance has started on it',
        )
      }
      const keyedHash = await openWrappedKeys({ store: { ...createSecretStore(sql), addWrappedKeys }, secrets })
      const signer = () => {
        throw new Error('The verification signs nothing')
      }
      const keys = createAuditKeys({ signer, keyedHash })
      const { macOf } = createAuditSource(keyedHash)
      return await withSnapshot(sql, (store) => verifyAudit({ store, keys, macOf }, { heads }))
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
    const { values } = parseArgs({
      options: {
        head: { type: 'string', multiple: true },
        json: { type: 'boolean' },
        help: { type: 'boolean' },
      },
    })
    if (values.help) return console.log(usage)
    config = parseConfig(process.env)
    const heads = values.head ?? []
    const found = await verify(config, heads)
    const { problems, verified, pending, erased, head } = found
    if (values.json)
      console.log(JSON.stringify({ intact: problems.length === 0, problems, verified, pending, erased, head }))
    else for (const line of toReport(found, heads.length)) console.log(line)
    process.exitCode = problems.length === 0 ? 0 : 1
  } catch (error) {
    const isMisused = error instanceof TypeError && 'code' in error
    if (isMisused) report(`${error.message}\n\n${usage}`)
    else if (error instanceof ForeignHead) report(foreignHead(error))
    else report(describeStartFailure(error, config) ?? '')
    process.exitCode = 2
  }
}

void main()
