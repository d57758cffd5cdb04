/**
 * `src/main.ts`, which also writes its own measurements at each SIGUSR2: times from the call of the handler to its response, by
 * status, and how late its event loop was. So a client that shares the processors with the server is not measured.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks'
import process from 'node:process'
import { percentile } from '../bench/latencies.ts'

const times = new Map<string, number[]>()
const lag = monitorEventLoopDelay({ resolution: 1 })
lag.enable()

const serve = Bun.serve
const timed = (options: Parameters<typeof serve>[0]) => {
  const { fetch } = options as { fetch: (request: Request) => Response | Promise<Response> }
  const timedFetch = async (request: Request) => {
    const startedMs = performance.now()
    const response = await fetch(request)
    const name = `${request.method} ${new URL(request.url).pathname} ${response.status}`
    const known = times.get(name)
    if (known === undefined) times.set(name, [performance.now() - startedMs])
    else known.push(performance.now() - startedMs)
    return response
  }
  return serve({ ...options, fetch: timedFetch } as Parameters<typeof serve>[0])
}
Object.assign(Bun, { serve: timed })

process.on('SIGUSR2', () => {
  const figures = [...times].map(([name, all]) => [
    name,
    all.length,
    ...[0.5, 0.95, 0.99].map((q) => percentile(all, q)),
  ])
  console.log(`\nMEASURED ${JSON.stringify({ times: figures, lagP99Ms: lag.percentile(99) / 1e6 })}`)
  times.clear()
  lag.reset()
})

await import('../../src/main.ts')
