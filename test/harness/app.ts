import { createApp } from '../../src/app.ts'
import { type Config, parseConfig } from '../../src/config.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { createLog } from '../../src/platform/log.ts'
import { createListener, type Server } from '../../src/platform/serve.ts'
import { createServices, type Overrides, type Services } from '../../src/services.ts'
import { createDatabase, type TestConnection } from './database.ts'
import { mediaFolder } from './media.ts'

/** The SECRET of every app and server that tests start. */
export const testSecret = 'a secret of tests, the same everywhere'

/** Tests register thousands of people; a test about passwords asks for `argon2Options`. */
const cheapPasswords = { memoryCost: 64, timeCost: 1, parallelism: 1 }

export type TestApp = {
  baseUrl: string
  services: Services
  connection: TestConnection
  /** Resolves when the instance holds its lease and so uses its caches: at once, unless the machine is very busy. */
  leased(): Promise<void>
  /** Resolves when the caches have applied every change committed so far, those written directly with SQL included. */
  caughtUp(): Promise<void>
  /** Stops the app, and drops its database unless a connection was given. Idempotent. */
  close(): Promise<void>
}

export type TestAppOptions = Omit<Overrides, 'onStatement'> & {
  /** Called with each statement of a request; statements of background tasks are left out. */
  onStatement?: (text: string) => void
  config?: Partial<Config>
  connection?: TestConnection
  /** Whether metrics far above their targets open alerts. Default false: a loaded machine opens none in other tests. */
  alerts?: boolean
  /** Whether a sign-in prefetches facts. Default false: a fact stays cold until a test asks for it. */
  warmUp?: boolean
}

/** The whole application in this process, on a real socket and a separate database. Silent unless given a log. */
export const startApp = async ({
  config,
  connection: given,
  onStatement,
  warmUp = false,
  alerts = false,
  ...overrides
}: TestAppOptions = {}): Promise<TestApp> => {
  const own = given === undefined ? await createDatabase() : undefined
  const connection = given ?? (own?.connection as TestConnection)
  const defaults = parseConfig({
    SECRET: testSecret,
    HOST: '127.0.0.1',
    DB_CONNECTIONS: '24',
    HASH_WORKERS: '1',
    // Limits are the subject of few tests; those turn them on.
    LIMITS: 'off',
    // Accepted generations stay queued unless a test changes this.
    JOB_CONCURRENCY: '0',
    MEDIA_DIR: await mediaFolder(),
  })
  let services: Services | undefined
  let server: Server | undefined
  let closed: Promise<void> | undefined
  const end = async () => {
    await server?.stop(0)
    await services?.close()
    await own?.drop()
  }
  const close = () => {
    closed ??= end()
    return closed
  }
  try {
    // Mails are the subject of few tests; those give settings and take the mails: see `createMailbox`.
    services = await createServices(
      { ...defaults, mail: undefined, ...config, secret: config?.secret ?? testSecret },
      connection,
      {
        log: createLog('silent'),
        passwordCost: cheapPasswords,
        ...(onStatement && { onStatement: (text, pool) => pool !== 'batch' && onStatement(text) }),
        ...overrides,
      },
    )
    if (!warmUp) services.warmUp.stop()
    if (!alerts) await services.alerts.close()
    const listener = createListener()
    const app = createApp(services, listener.addressOf)
    server = listener.listen(app.serve, { hostname: services.config.host, port: 0 })
    const { caches } = services
    const leased = async () => {
      while (systemClock.monotonic() >= caches.bus.lease.untilMs) await Bun.sleep(2)
    }
    // NOTIFY delivers in commit order: when our own event is back, every earlier one has been applied.
    const caughtUp = () => caches.changes.commitAndInvalidate(createDeadlines(systemClock)(30_000), async () => {})
    await leased()
    return { baseUrl: `http://127.0.0.1:${server.port}`, services, connection, leased, caughtUp, close }
  } catch (error) {
    await close()
    throw error
  }
}
