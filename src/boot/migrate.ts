import process from 'node:process'
import { type Config, parseConfig } from '../config.ts'
import { createLog } from '../platform/log.ts'
import { openDatabase } from './open-database.ts'
import { prepareDatabase } from './prepare-database.ts'
import { describeStartFailure } from './start-failure.ts'

const report = (line: string): void => console.error(line)

/** `bun run migrate`: prepares the database exactly as a start does, and ends without serving. */
const run = async (): Promise<void> => {
  let config: Config | undefined
  try {
    config = parseConfig(process.env)
    for (const note of config.notes) report(`${note}.`)
    const log = createLog(config.logLevel)
    const database = await openDatabase(config, log, report)
    try {
      await prepareDatabase(database.connection, config, log, report)
    } finally {
      await database.stop()
    }
    report('The database is up to date.')
  } catch (error) {
    const line = describeStartFailure(error, config)
    if (line !== undefined) report(line)
    process.exit(1)
  }
}

void run()
