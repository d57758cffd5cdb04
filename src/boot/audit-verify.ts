import process from 'node:process'
import { parseArgs } from 'node:util'
import { createAuditSource } from '../audit/event.ts'
import { createAuditKeys } from '../audit/keys.ts'
import { type AuditProblem, ForeignHead, problemKinds, verifyAudit } from '../audit/verify.ts'
import { withSnapshot } from '../audit/verify-store.ts'
import { type Config, parseConfig } from '../config.ts'
import { createLog } from '../platform/log.ts'
import { connectOnce } from '../platform/postgres.ts'
import { createSecrets } from '../platform/secrets.ts'
import { createSecretStore } from '../secrets/store.ts'
import { openWrappedKeys } from '../secrets/wrapped-keys.ts'
import { openDatabase } from './open-database.ts'
import { prepareDatabase } from './prepare-database.ts'
import { describeStartFailure } from './start-failure.ts'

const usage = `bun run audit:verify [--head HEAD]... [--json]
  Verifies the audit log in the database of the configuration, and locates every event that was altered, removed, swapped or
  inserted. HEAD is a signed head that left the database before, such as one that the log has (audit.head): with it a log is found
  that was cut at its end. Ends with 0 where the log is intact, with 1 where it is not, and with 2 where it could not be verified.`

const report = (line: string): void => console.error(line)

/** A line for a problem, with the place to look at. */
const toLine = ({ problem, month, sequence, to, event_id, event_at }: AuditProblem): string =>
  [
    `${problem}: ${problemKinds[problem]}.`,
    `Month ${month.slice(0, 7)}`,
    ...(sequence === undefined ? [] : [`sequence ${sequence}`]),
    ...(to === undefined ? [] : [`to ${to}`]),
    ...(event_id === undefined ? [] : [`event ${event_id}`]),
    ...(event_at === undefined ? [] : [`at ${event_at}`]),
  ].join(', ')

const verify = async (config: Config, heads: readonly string[]) => {
  const log = createLog(config.logLevel)
  const { connection, secret, stop } = await openDatabase(config, log, report)
  try {
    const { route } = await prepareDatabase(connection, config, log, report)
    const sql = connectOnce(connection, route)
    try {
      const secrets = createSecrets(secret, config.previousSecret)
      const keyedHash = await openWrappedKeys({ store: createSecretStore(sql), secrets })
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
    const found = await verify(config, values.head ?? [])
    const { problems, verified, pending, erased, head } = found
    if (values.json)
      console.log(JSON.stringify({ intact: problems.length === 0, problems, verified, pending, erased, head }))
    else {
      for (const problem of problems) console.log(toLine(problem))
      const counts = `${verified} linked events verified, ${pending} not linked yet, ${erased} without their erased personal data`
      console.log(`${problems.length === 0 ? 'The audit log is intact' : 'The audit log is not intact'}: ${counts}.`)
      if (head !== null) console.log(`Newest head: ${head}`)
    }
    process.exitCode = problems.length === 0 ? 0 : 1
  } catch (error) {
    const isMisused = error instanceof TypeError && 'code' in error
    if (isMisused) report(`${error.message}\n\n${usage}`)
    else if (error instanceof ForeignHead) report(`${error.message}.`)
    else report(describeStartFailure(error, config) ?? '')
    process.exitCode = 2
  }
}

void main()
