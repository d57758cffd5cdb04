import process from 'node:process'
import { openDatabase } from './boot/open-database.ts'
import { StartFailed, startInstances } from './boot/supervisor.ts'
import { type Config, ConfigRefused, parseConfig } from './config.ts'
import { findSupervisor } from './platform/child-process.ts'
import { createLog, type Log } from './platform/log.ts'
import { MigrationRefused } from './platform/migrate.ts'
import { PortTaken } from './platform/serve.ts'
import { onTermination } from './platform/signals.ts'

const greeting = (port: number, embedded: boolean, redis: boolean) => `
Velro is ready on http://localhost:${port}

  API docs    http://localhost:${port}/docs
  Database    ${embedded ? 'embedded Postgres; set DATABASE_URL to use your own' : 'DATABASE_URL'}
  Cache       ${redis ? 'memory, and REDIS_URL between instances' : 'memory alone; set REDIS_URL for one between instances'}

First call:
  curl -s http://localhost:${port}/api/v1/auth/register -H 'content-type: application/json' \\
    -d '{"email":"ada@example.com","password":"correct horse battery"}'
`

/** What serves, then the embedded database. */
const start = async (config: Config, supervised: boolean, log: Log) => {
  const database = await openDatabase(config, log)
  try {
    const serving =
      config.processes > 1 && !supervised
        ? await startInstances(config, database, log)
        : // Not for a supervisor: the application is a quarter of its memory.
          await import('./boot/instance.ts').then(({ startInstance }) => startInstance(config, database, log))
    const stop = async () => {
      await serving.stop().finally(database.stop)
    }
    return { ...serving, stop, embedded: database.embedded }
  } catch (error) {
    await database.stop()
    throw error
  }
}

const main = async () => {
  const config = parseConfig(process.env)
  const log = createLog(config.logLevel)

  const supervisor = findSupervisor(process.env)
  // Nothing is under way yet.
  let onSupervisorGone = (): void => process.exit(1)
  supervisor?.onDisconnect(() => onSupervisorGone())

  const running = await start(config, supervisor !== undefined, log)
  // A driver may drop a promise that nobody holds, as when a query is cancelled while its server is gone.
  process.on('unhandledRejection', (error) => log.error({ error }, 'a promise nobody waited for was rejected'))
  let ending = false
  const end = (why: object) => {
    if (ending) return
    ending = true
    log.info(why, 'shutting down')
    running.stop().then(
      () => process.exit(0),
      (error) => {
        log.error({ error }, 'shutdown failed')
        process.exit(1)
      },
    )
  }
  onSupervisorGone = () => end({ told_by: 'supervisor' })
  onTermination(
    (signal) => end({ signal }),
    (signal) => {
      log.warn({ signal }, 'told twice, leaving at once')
      running.kill()
      process.exit(1)
    },
  )
  await running.complete
  if (supervisor === undefined) console.log(greeting(running.port, running.embedded, config.redisUrl !== undefined))
  else supervisor.reportReady(running.port)
}

main().catch((error) => {
  const told = [ConfigRefused, PortTaken, MigrationRefused, StartFailed].some((kind) => error instanceof kind)
  console.error(told ? error.message : error)
  process.exit(1)
})
