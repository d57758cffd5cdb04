import { createApp } from '../../src/app.ts'
import { type Config, parseConfig } from '../../src/config.ts'
import { createLog } from '../../src/platform/log.ts'
import { createListener, type Server } from '../../src/platform/serve.ts'
import { createServices, type Overrides, type Services } from '../../src/services.ts'
import { createDatabase, type TestConnection } from './database.ts'

/** The SECRET of every app and server the tests start. */
export const testSecret = 'a secret of tests, the same everywhere'

export type TestApp = {
  baseUrl: string
  services: Services
  connection: TestConnection
  /** Ends the app; and drops its database, unless that was given. Idempotent. */
  close(): Promise<void>
}

export type TestAppOptions = Overrides & { config?: Partial<Config>; connection?: TestConnection }

/** The whole application in this process, on a real socket and a database of its own. Silent unless given a log. */
export const startApp = async ({ config, connection: given, ...overrides }: TestAppOptions = {}): Promise<TestApp> => {
  const own = given === undefined ? await createDatabase() : undefined
  const connection = given ?? (own?.connection as TestConnection)
  const defaults = parseConfig({ SECRET: testSecret, HOST: '127.0.0.1', DB_CONNECTIONS: '24', HASH_WORKERS: '1' })
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
      ...overrides,
    })
    const listener = createListener()
    const app = createApp(services, listener.addressOf)
    server = listener.listen(app.fetch, { hostname: services.config.host, port: 0 })
    return { baseUrl: `http://127.0.0.1:${server.port}`, services, connection, close }
  } catch (error) {
    await close()
    throw error
  }
}
