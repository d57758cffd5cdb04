import process from 'node:process'
import { parseArgs } from 'node:util'
import { createAuditSource } from '../audit/event.ts'
import { type Config, parseConfig } from '../config.ts'
import { unlock } from '../emergency/unlock.ts'
import { createLog } from '../platform/log.ts'
import { connectOnce } from '../platform/postgres.ts'
import { createSecrets } from '../platform/secrets.ts'
import { createSecretStore } from '../secrets/store.ts'
import { openWrappedKeys } from '../secrets/wrapped-keys.ts'
import { openDatabase } from './open-database.ts'
import { prepareDatabase } from './prepare-database.ts'
import { describeStartFailure } from './start-failure.ts'

const usage = `bun run admin:unlock
  Sets the mode of the service to normal and removes every block, in the database of the configuration. For operators who cannot
  sign in any more. Running instances learn of it at once.`

const report = (line: string): void => console.error(line)

const run = async (config: Config): Promise<string> => {
  const log = createLog(config.logLevel)
  const { connection, secret, stop } = await openDatabase(config, log, report)
  try {
    const { route } = await prepareDatabase(connection, config, log, report)
    const sql = connectOnce(connection, route)
    try {
      const secrets = createSecrets(secret, config.previousSecret)
      const keyedHash = await openWrappedKeys({ store: createSecretStore(sql), secrets })
      const { before, blocks } = await unlock(sql, createAuditSource(keyedHash))
      log.info({ event: 'mode.unlocked', before, blocks }, 'modes and blocks were lifted from the command line')
      return `The mode was ${before ?? 'unknown'} and is normal now. ${blocks} blocks were removed.`
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
    const { values } = parseArgs({ options: { help: { type: 'boolean' } } })
    if (values.help) return console.log(usage)
    config = parseConfig(process.env)
    for (const note of config.notes) report(`${note}.`)
    console.log(await run(config))
  } catch (error) {
    if (error instanceof TypeError && 'code' in error) report(`${error.message}\n\n${usage}`)
    else report(describeStartFailure(error, config) ?? '')
    process.exitCode = 1
  }
}

void main()
