import { createApp } from '../app.ts'
import type { Config } from '../config.ts'
import type { Log } from '../platform/log.ts'
import { createListener } from '../platform/serve.ts'
import { createServices } from '../services.ts'
import type { BackingDatabase } from './open-database.ts'

/** Serves in this process. Throws what keeps it from that, and then nothing is left open. */
export const startInstance = async (config: Config, { connection, secret }: BackingDatabase, log: Log) => {
  const services = await createServices({ ...config, secret }, connection, { log })
  try {
    const listener = createListener()
    const app = createApp(services, listener.addressOf)
    const { host: hostname, port } = config
    const server = listener.listen(app.fetch, { hostname, port, reusePort: config.processes > 1 })
    services.database.warm().catch((error) => {
      if (!services.lifecycle.stopping) log.warn({ error }, 'connections could not be opened ahead')
    })
    void services.warmUp.start()
    return {
      port: server.port,
      complete: Promise.resolve(),
      /** Not ready any more, streams first; then requests under way while jobs are given back, then workers and pools. */
      stop: async () => {
        services.lifecycle.stopping = true
        services.streams.close()
        const drained = services.runner.close()
        await server.stop(config.drainMs)
        await drained
        await services.close()
      },
      kill: () => {},
    }
  } catch (error) {
    await services.close()
    throw error
  }
}
