import { type Runtime, startServer, type TestConnection, type TestServer } from '../harness.ts'

/** One of the servers that share a database and a Redis. */
export type Instance = {
  readonly name: string
  server: TestServer
  /** Neither frozen, killed nor starting. */
  responds: boolean
  freeze(): void
  thaw(): void
  /** Sends SIGKILL. */
  kill(): Promise<void>
  /** Starts it again on the same port. */
  restart(): Promise<void>
}

export type Environment = Readonly<Record<string, string>>

export const tokenTtlS = 3_600

export const startInstance = async (
  name: string,
  connection: TestConnection,
  given: Environment,
  runtime: Runtime = 'bun',
): Promise<Instance> => {
  // Rendering would take CPU from the load.
  const quiet = { LOG_LEVEL: 'fatal', JOB_CONCURRENCY: '0' }
  const env = { DB_CONNECTIONS: '24', ACCESS_TOKEN_SECONDS: String(tokenTtlS), ...quiet, ...given }
  const server = await startServer({ runtime, connection, env })
  const instance: Instance = {
    name,
    server,
    responds: true,
    freeze: () => {
      instance.responds = false
      process.kill(instance.server.pid, 'SIGSTOP')
    },
    thaw: () => {
      process.kill(instance.server.pid, 'SIGCONT')
      instance.responds = true
    },
    kill: async () => {
      instance.responds = false
      await instance.server.kill('SIGKILL')
    },
    restart: async () => {
      const { port } = new URL(instance.server.baseUrl)
      instance.server = await startServer({ runtime, connection, env: { ...env, PORT: port } })
      instance.responds = true
    },
  }
  return instance
}
