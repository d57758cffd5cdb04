import process from 'node:process'
import { openDatabase } from './boot/open-database.ts'
import { requireMediaFolder } from './boot/require-writable.ts'
import { describeStartFailure } from './boot/start-failure.ts'
import { startInstances } from './boot/supervisor.ts'
import { type Config, parseConfig } from './config.ts'
import { findSupervisor } from './platform/child-process.ts'
import { createLog, type Log } from './platform/log.ts'
import { requireFreePort } from './platform/serve.ts'
import { onTermination } from './platform/signals.ts'

/** Where mails go, for the greeting. */
const describeMail = ({ mail }: Config): string => {
  if (mail === undefined) return 'none is sent; set SMTP_URL'
  return mail.server === undefined ? 'written to the log with its links; set SMTP_URL to send it' : 'SMTP_URL'
}

const greeting = (port: number, embedded: boolean, config: Config) => `
Velro is ready on http://localhost:${port}

  API docs    http://localhost:${port}/docs
  Database    ${embedded ? 'embedded Postgres; set DATABASE_URL to use your own' : 'DATABASE_URL'}
  Cache       ${config.redisUrl === undefined ? 'memory alone; set REDIS_URL for one between instances' : 'memory, and REDIS_URL between instances'}
  Mail        ${describeMail(config)}

First call:
  curl -s http://localhost:${port}/api/v1/auth/register -H 'content-type: application/json' \\
    -d '{"email":"first@example.com","password":"correct horse battery"}'
`

/** On standard error: what the start is doing while it takes its time. */
const report = (line: string): void => console.error(line)

/** Cheap checks come first, so that a start that must fail does so before a database is started or migrated. */
const start = async (config: Config, supervised: boolean, log: Log) => {
  // Its supervisor has reported them.
  if (!supervised) for (const note of config.notes) report(`${note}.`)
  // Supervised processes share the port.
  if (!supervised) await requireFreePort({ hostname: config.host, port: config.port })
  if (config.s3 === undefined) await requireMediaFolder(config.mediaDirectory)
  const database = await openDatabase(config, log, report)
  try {
    const serving =
      config.processes > 1 && !supervised
        ? await startInstances(config, database, log)
        : // Not loaded in a supervisor: the application would be a quarter of its memory.
          await import('./boot/instance.ts').then(({ startInstance }) => startInstance(config, database, log, report))
    const stop = async () => {
      await serving.stop().finally(database.stop)
    }
    return { ...serving, stop, embedded: database.embedded }
  } catch (error) {
    await database.stop()
    throw error
  }
}

/** Links would begin with the Host header of each request, and with http also behind a proxy that terminates TLS. */
const publicUrlMissing =
  'PUBLIC_URL must be set in a deployment, to the origin at which clients reach it, such as https://api.example.com: ' +
  'without it links begin with the Host header of the request'

const main = async (config: Config) => {
  const log = createLog(config.logLevel)

  const supervisor = findSupervisor(process.env)
  const isDeployment = config.databaseUrl !== undefined
  if (isDeployment && config.publicUrl === undefined && supervisor === undefined) {
    log.warn({ event: 'config.public_url_missing' }, publicUrlMissing)
  }
  // Until the service runs there is nothing to shut down.
  let onSupervisorGone = (): void => process.exit(1)
  supervisor?.onDisconnect(() => onSupervisorGone())

  const running = await start(config, supervisor !== undefined, log)
  // A driver may reject a promise that no code holds, for example when a query is cancelled while its server is gone.
  process.on('unhandledRejection', (error) => log.error({ error }, 'unhandled promise rejection'))
  let ending = false
  const end = (why: object) => {
    if (ending) return
    ending = true
    log.info({ ...why, drain_delay_ms: config.drainDelayMs }, 'shutting down')
    running.stop().then(
      () => process.exit(0),
      (error) => {
        log.error({ error }, 'shutdown failed')
        process.exit(1)
      },
    )
  }
  onSupervisorGone = () => end({ reason: 'supervisor gone' })
  onTermination(
    (signal) => end({ signal }),
    (signal) => {
      log.warn({ signal }, 'second signal received, exiting immediately')
      running.kill()
      process.exit(1)
    },
  )
  await running.complete
  if (supervisor === undefined) console.log(greeting(running.port, running.embedded, config))
  else supervisor.reportReady(running.port)
}

const run = async (): Promise<void> => {
  let config: Config | undefined
  try {
    config = parseConfig(process.env)
    await main(config)
  } catch (error) {
    const line = describeStartFailure(error, config)
    if (line !== undefined) report(line)
    process.exit(1)
  }
}

void run()
