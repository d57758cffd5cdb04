import { randomBytes } from 'node:crypto'
import { link, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import process from 'node:process'
import { createApp } from './app.ts'
import { type Config, ConfigRefused, parseConfig } from './config.ts'
import { type EmbeddedPostgres, startEmbeddedPostgres } from './platform/embedded-postgres.ts'
import { createLog, type Log } from './platform/log.ts'
import { MigrationRefused } from './platform/migrate.ts'
import { createListener, PortTaken, type Server } from './platform/serve.ts'
import { createServices, type Services } from './services.ts'

/**
 * The secret of an embedded database: made once, kept beside its data, readable by us alone. It appears whole or not at
 * all, and of two starts at once both take the one that came first.
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

type Running = { services: Services; server: Server; embedded: EmbeddedPostgres | undefined; config: Config }

const start = async (config: Config, log: Log): Promise<Running> => {
  const directory = resolve(config.dataDirectory)
  const embedded =
    config.databaseUrl === undefined
      ? await startEmbeddedPostgres({
          directory: join(directory, 'postgres'),
          log: (line) => log.info({ notice: line }, 'embedded postgres'),
        })
      : undefined
  try {
    const secret = config.secret ?? (await embeddedSecret(directory))
    const connection = config.databaseUrl ?? embedded?.connection
    if (connection === undefined) throw new TypeError('Neither a database URL nor an embedded database')
    const services = await createServices({ ...config, secret }, connection, { log })
    try {
      const listener = createListener()
      const app = createApp(services, listener.addressOf)
      const server = listener.listen(app.fetch, { hostname: config.host, port: config.port })
      return { services, server, embedded, config }
    } catch (error) {
      await services.close()
      throw error
    }
  } catch (error) {
    await embedded?.stop()
    throw error
  }
}

/** Not ready any more, then requests under way, then workers and pools, then the embedded database. */
const stop = async ({ services, server, embedded, config }: Running) => {
  services.lifecycle.stopping = true
  await server.stop(config.drainMs)
  await services.close()
  await embedded?.stop()
}

const greeting = (port: number, embedded: boolean) => `
Velro is ready on http://localhost:${port}

  API docs    http://localhost:${port}/docs
  Database    ${embedded ? 'embedded Postgres; set DATABASE_URL to use your own' : 'DATABASE_URL'}

First call:
  curl -s http://localhost:${port}/api/v1/auth/register -H 'content-type: application/json' \\
    -d '{"email":"ada@example.com","password":"correct horse battery"}'
`

const sameSignalMs = 250

const main = async () => {
  const config = parseConfig(process.env)
  const log = createLog(config.logLevel)
  const running = await start(config, log)
  let endingSinceMs: number | undefined
  const end = (signal: string) => {
    const nowMs = performance.now()
    if (endingSinceMs !== undefined) {
      // A terminal signals its whole process group, and a runner in it passes the same signal on once more.
      if (nowMs - endingSinceMs < sameSignalMs) return
      log.warn({ signal }, 'told twice, leaving at once')
      process.exit(1)
    }
    endingSinceMs = nowMs
    log.info({ signal }, 'shutting down')
    stop(running).then(
      () => process.exit(0),
      (error) => {
        log.error({ error }, 'shutdown failed')
        process.exit(1)
      },
    )
  }
  // A driver may drop a promise that nobody holds, as when a query is cancelled while its server is gone.
  process.on('unhandledRejection', (error) => log.error({ error }, 'a promise nobody waited for was rejected'))
  process.on('SIGTERM', () => end('SIGTERM'))
  process.on('SIGINT', () => end('SIGINT'))
  console.log(greeting(running.server.port, running.embedded !== undefined))
  await running.services.database.warm().catch((error) => log.warn({ error }, 'connections could not be opened ahead'))
}

main().catch((error) => {
  const told = error instanceof ConfigRefused || error instanceof PortTaken || error instanceof MigrationRefused
  console.error(told ? error.message : error)
  process.exit(1)
})
