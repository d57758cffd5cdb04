/**
 * Velro with a second pool of image workers that keeps a number of renders and thumbnails under way: `POST
 * /bench/begin?pictures=8` with the picture to scale down starts them, `POST /bench/end` ends them and returns the event-loop
 * lag since then.
 */
import process from 'node:process'
import { createApp } from '../../../src/app.ts'
import { openDatabase } from '../../../src/boot/open-database.ts'
import { parseConfig } from '../../../src/config.ts'
import { systemClock } from '../../../src/kit/clock.ts'
import { createDeadlines } from '../../../src/kit/deadline.ts'
import { createImages } from '../../../src/media/images/images.ts'
import { createLog } from '../../../src/platform/log.ts'
import { createListener } from '../../../src/platform/serve.ts'
import { onTermination } from '../../../src/platform/signals.ts'
import { createServices } from '../../../src/services.ts'
import { percentile } from '../latencies.ts'

const startDeadline = createDeadlines(systemClock)

const tickMs = 2
const patienceMs = 120_000

const config = parseConfig(process.env)
const log = createLog(config.logLevel)
const database = await openDatabase(config, log, () => {})
const services = await createServices({ ...config, secret: database.secret }, database.connection, { log })
const images = createImages({ workers: config.renderWorkers, maxQueued: config.renderQueue })

const patient = () => startDeadline(patienceMs)
const render = (seed: number, signal: AbortSignal) =>
  images.render({ prompt: 'a lighthouse at dusk', seed, width: 1_024, height: 1_024, format: 'png' }, patient(), {
    signal,
  })

const begin = (pictures: number, photo: Uint8Array) => {
  const stop = new AbortController()
  const { signal } = stop
  const startedMs = performance.now()
  const lagsMs: number[] = []
  let renders = 0
  let thumbnails = 0
  const watch = async () => {
    while (!signal.aborted) {
      const dueMs = performance.now() + tickMs
      await new Promise<void>((resolve) => setTimeout(resolve, tickMs))
      lagsMs.push(Math.max(0, performance.now() - dueMs))
    }
  }
  const repeat = async (work: () => Promise<unknown>) => {
    while (!signal.aborted) await work()
  }
  const rendering = async () => {
    await render(renders, signal)
    renders += 1
  }
  const shrinking = async () => {
    await images.thumbnail(photo, 512, patient())
    thumbnails += 1
  }
  const all = [watch()]
  for (let number = 0; number < pictures; number += 1) all.push(repeat(rendering), repeat(shrinking))
  const done = Promise.allSettled(all)
  return async () => {
    const ms = performance.now() - startedMs
    const told = { ms, lagP99Ms: percentile(lagsMs, 0.99), renders, thumbnails }
    stop.abort()
    await done
    return told
  }
}
export type PicturesReport = Awaited<ReturnType<ReturnType<typeof begin>>>

let end = begin(0, new Uint8Array())
const listener = createListener()
const app = createApp(services, listener.addressOf)
const fetch = async (request: Request): Promise<Response> => {
  if (!request.url.includes('/bench/')) return app.fetch(request)
  const { pathname, searchParams } = new URL(request.url)
  const photo = new Uint8Array(await request.arrayBuffer())
  const told = await end()
  end = begin(pathname === '/bench/begin' ? Number(searchParams.get('pictures')) : 0, photo)
  return Response.json(told)
}
const server = listener.listen(fetch, { hostname: config.host, port: config.port })
await services.database.warm()
const leave = async () => {
  await end()
  await server.stop(0)
  await images.close()
  await services.close()
  await database.stop()
  process.exit(0)
}
onTermination(
  () => void leave(),
  () => process.exit(1),
)
