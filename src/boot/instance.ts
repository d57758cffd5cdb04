import { createApp } from '../app.ts'
import type { Config } from '../config.ts'
import { createFailureResponse } from '../http/runtime-failure.ts'
import { delay } from '../kit/async.ts'
import type { Log } from '../platform/log.ts'
import { createListener } from '../platform/serve.ts'
import { createServices } from '../services.ts'
import type { BackingDatabase } from './open-database.ts'
import { describeStorageFailure } from './start-failure.ts'

/** Serves in this process. When it throws, nothing is left open. */
export const startInstance = async (
  config: Config,
  { connection, secret }: BackingDatabase,
  log: Log,
  report: (line: string) => void,
) => {
  const services = await createServices({ ...config, secret }, connection, { log, report })
  try {
    const listener = createListener()
    const app = createApp(services, listener.addressOf)
    const { host: hostname, port } = config
    const reusePort = config.processes > 1
    const server = listener.listen(app.serve, { hostname, port, reusePort, onFailure: createFailureResponse(log) })
    services.database.warm().catch((error) => {
      if (!services.lifecycle.stopping) log.warn({ error }, 'database pools not warmed up')
    })
    void services.warmUp.start()
    services.objectProbe.findFailure().then((error) => {
      if (error !== undefined) report(describeStorageFailure(error, config))
    })
    return {
      port: server.port,
      complete: Promise.resolve(),
      /**
       * In this order: readiness, the delay for load balancers, streams, then requests in flight while jobs are rescheduled,
       * then workers and pools.
       */
      stop: async () => {
        services.lifecycle.draining = true
        if (config.drainDelayMs > 0) await delay(config.drainDelayMs, new AbortController().signal)
        services.lifecycle.stopping = true
        services.streams.close()
        services.figureStreams.close()
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
