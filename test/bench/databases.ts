import { randomBytes } from 'node:crypto'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import postgres from 'postgres'
import { startEmbeddedPostgres } from '../../src/platform/embedded-postgres/embedded-postgres.ts'
import { type Connection, connectOnce } from '../../src/platform/postgres.ts'
import { onEnd } from './servers.ts'

/** The environment variables that name the database. */
type Environment = Readonly<Record<string, string>>

const newSecret = () => randomBytes(32).toString('hex')

export const temporaryDirectory = async (): Promise<string> => {
  const directory = await mkdtemp(join(tmpdir(), 'velro-bench-'))
  // The account that Postgres runs as has to get in, or the data would be kept elsewhere.
  await chmod(directory, 0o755)
  onEnd({ stop: () => rm(directory, { recursive: true, force: true }) })
  return directory
}

const createOn = async (url: string): Promise<Environment> => {
  const name = `velro_bench_${randomBytes(6).toString('hex')}`
  const admin = postgres(url, { max: 1, onnotice: () => {} })
  await admin`create database ${admin(name)}`
  onEnd({
    stop: async () => {
      await admin`drop database ${admin(name)} with (force)`
      await admin.end()
    },
  })
  const own = new URL(url)
  own.pathname = `/${name}`
  return { DATABASE_URL: own.href, SECRET: newSecret() }
}

/** An empty database that is gone afterwards: on the server of `DATABASE_URL`, else of Velro's own embedded Postgres. */
export const newDatabase = async (): Promise<Environment> => {
  const url = process.env['DATABASE_URL']
  return url ? createOn(url) : { DATA_DIR: await temporaryDirectory() }
}

/** The same, on a server that Velro does not start itself; `settings` are for one that is started here. */
export const newExternalDatabase = async (settings: Readonly<Record<string, string>> = {}): Promise<Environment> => {
  const url = process.env['DATABASE_URL']
  if (url) return createOn(url)
  const { connection } = onEnd(await startEmbeddedPostgres({ directory: await temporaryDirectory(), settings }))
  // A URL has no room for the path of a socket; the driver takes it from where libpq does.
  return {
    DATABASE_URL: `postgres:///${connection.database}`,
    PGHOST: connection.host,
    PGPORT: String(connection.port),
    PGUSER: connection.user,
    SECRET: newSecret(),
  }
}

/** The same, where statements are counted: see `Watched`. */
export const newCountedDatabase = async (): Promise<Environment> => {
  const env = await newExternalDatabase({
    shared_preload_libraries: 'pg_stat_statements',
    'pg_stat_statements.track_utility': 'off',
    'pg_stat_statements.save': 'off',
  })
  const sql = connectOnce(connectionOf(env))
  try {
    await sql`create schema bench`
    await sql`create extension pg_stat_statements schema bench`
  } finally {
    await sql.end()
  }
  return env
}

/** The same connection as an option of the driver. */
export const connectionOf = (env: Environment): Connection => {
  const url = env['DATABASE_URL'] ?? ''
  const host = env['PGHOST']
  if (host === undefined) return url
  return { host, port: Number(env['PGPORT']), user: env['PGUSER'] ?? '', database: url.replace('postgres:///', '') }
}
