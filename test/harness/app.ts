import { createApp } from '../../src/app.ts'
import { type Config, parseConfig } from '../../src/config.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { createLog } from '../../src/platform/log.ts'
import { createListener, type Server } from '../../src/platform/serve.ts'
import { createServices, type Overrides, type Services } from '../../src/services.ts'
import { createDatabase, type TestConnection } from './database.ts'
import { mediaFolder } from './media.ts'

/** The SECRET of every app and server the tests start. */
export const testSecret = 'a secret of tests, the same everywhere'

export type TestApp = {
  baseUrl: string
  services: Services
  connection: TestConnection
  /** Resolves when it believes its caches: at once, unless the machine is very busy. */
  leased(): Promise<void>
  /** Ends the app; and drops its database, unless that was given. Idempotent. */
  close(): Promise<void>
}

export type TestAppOptions = Omit<Overrides, 'onStatement'> & {
  /** Called with each statement but those of the background, which nobody's request asked for. */
  onStatement?: (text: string) => void
  config?: Partial<Config>
  connection?: TestConnection
  /** Whether sign-ins fetch ahead. Default false: what is cold stays cold until a test asks about it. */
  warmUp?: boolean
}

/** The whole application in this process, on a real socket and a database of its own. Silent unless given a log. */
export const startApp = async ({
  config,
  connection: given,
  onStatement,
  warmUp = false,
  ...overrides
}: TestAppOptions = {}): Promise<TestApp> => {
  const own = given === undefined ? await createDatabase() : undefined
  const connection = given ?? (own?.connection as TestConnection)
  const defaults = parseConfig({
    SECRET: testSecret,
    HOST: '127.0.0.1',
    DB_CONNECTIONS: '24',
    HASH_WORKERS: '1',
    // Until a test asks for it, what was accepted stays queued.
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
    services = await createServices({ ...defaults, ...config, secret: config?.secret ?? testSecret }, connection, {
      log: createLog('silent'),
      ...(onStatement && { onStatement: (text, pool) => pool !== 'batch' && onStatement(text) }),
      ...overrides,
    })
    if (!warmUp) services.warmUp.stop()
    const listener = createListener()
    const app = createApp(services, listener.addressOf)
    server = listener.listen(app.fetch, { hostname: services.config.host, port: 0 })
    const { caches } = services
    const leased = async () => {
      while (systemClock.monotonic() >= caches.bus.lease.untilMs) await Bun.sleep(2)
    }
    await leased()
    return { baseUrl: `http://127.0.0.1:${server.port}`, services, connection, leased, close }
  } catch (error) {
    await close()
    throw error
  }
}
