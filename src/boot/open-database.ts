import { randomBytes } from 'node:crypto'
import { link, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import process from 'node:process'
import type { Config } from '../config.ts'
import { startEmbeddedPostgres } from '../platform/embedded-postgres/embedded-postgres.ts'
import type { Log } from '../platform/log.ts'
import type { Connection } from '../platform/postgres.ts'
import { requireWritable } from './require-writable.ts'

/** Where the data is, and the secret from which its keys are derived. */
export type BackingDatabase = {
  readonly connection: Connection
  readonly secret: string
  readonly embedded: boolean
  /** Stops the embedded Postgres. Does nothing for another one. */
  stop(): Promise<void>
}

/**
 * The secret of an embedded database: created once, stored beside its data, readable by this account alone. The file appears
 * atomically, and two processes that start at once both use the first one.
 */
const embeddedSecret = async (directory: string): Promise<string> => {
  const path = join(directory, 'secret')
  const draft = `${path}.${process.pid}`
  await mkdir(directory, { recursive: true })
  await writeFile(draft, randomBytes(32).toString('hex'), { mode: 0o600 })
  await link(draft, path).catch((error) => {
    if (error.code !== 'EEXIST') throw error
  })
  await rm(draft)
  return readFile(path, 'utf8')
}

/**
 * The database of the configuration; without one, an embedded Postgres that is running when this resolves. `report` gets a
 * line before that is started.
 */
export const openDatabase = async (
  config: Config,
  log: Log,
  report: (line: string) => void,
): Promise<BackingDatabase> => {
  const directory = resolve(config.dataDirectory)
  if (config.databaseUrl !== undefined) {
    const secret = config.secret ?? (await embeddedSecret(directory))
    return { connection: config.databaseUrl, secret, embedded: false, stop: async () => {} }
  }
  await requireWritable(directory)
  report(`Starting the embedded Postgres 18 in ${config.dataDirectory} (the first start takes about 10 s)`)
  const postgres = await startEmbeddedPostgres({
    directory: join(directory, 'postgres'),
    log: (line) => log.info({ notice: line }, 'embedded postgres'),
  })
  try {
    const secret = config.secret ?? (await embeddedSecret(directory))
    return { connection: postgres.connection, secret, embedded: true, stop: postgres.stop }
  } catch (error) {
    await postgres.stop()
    throw error
  }
}
