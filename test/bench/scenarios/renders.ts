import { availableParallelism } from 'node:os'
import sharp from 'sharp'
import { systemClock } from '../../../src/kit/clock.ts'
import { createDeadline } from '../../../src/kit/deadline.ts'
import { createImages } from '../../../src/platform/images.ts'
import { percentile } from '../latencies.ts'
import type { Scenario } from './scenario.ts'

const atOnce = 8
const rounds = 4
const tickMs = 2
const patienceMs = 120_000

/** How late a timer was, over and over, until the work is done. */
const lagDuring = async (work: Promise<unknown>): Promise<number[]> => {
  let done = false
  const end = work.finally(() => {
    done = true
  })
  const lagsMs: number[] = []
  while (!done) {
    const dueMs = performance.now() + tickMs
    await new Promise<void>((resolve) => setTimeout(resolve, tickMs))
    lagsMs.push(Math.max(0, performance.now() - dueMs))
  }
  await end
  return lagsMs
}

/** Whether the process that has pictures made feels it: its event loop, with as many workers as Velro would have. */
export const renders: Scenario = async ({ seconds }) => {
  const images = createImages({ workers: Math.max(1, availableParallelism() - 1), maxQueued: 10 * atOnce })
  const patient = () => createDeadline(systemClock, patienceMs)
  const noise = { type: 'gaussian', mean: 128, sigma: 20 } as const
  const photo = await sharp({ create: { width: 4_000, height: 3_000, channels: 3, background: '#666', noise } })
    .jpeg({ quality: 90 })
    .toBuffer()
  const render = (seed: number) =>
    images.render({ prompt: 'a lighthouse at dusk', seed, width: 1_024, height: 1_024, format: 'png' }, patient())
  const each = async <T>(work: (number: number) => Promise<T>) => {
    const startedMs = performance.now()
    await Promise.all(Array.from({ length: atOnce }, (_, number) => work(number)))
    return performance.now() - startedMs
  }
  try {
    await Promise.all([render(0), images.thumbnail(photo, 256, patient())])
    const [quiet, busy, renderMs, thumbnailMs]: [number[], number[], number[], number[]] = [[], [], [], []]
    for (let round = 0; round < rounds; round += 1) {
      quiet.push(percentile(await lagDuring(Bun.sleep((seconds * 1_000) / 2)), 0.99))
      const all = Promise.all([each(render), each(() => images.thumbnail(photo, 512, patient()))])
      busy.push(percentile(await lagDuring(all), 0.99))
      renderMs.push((await each(render)) / atOnce)
      thumbnailMs.push((await each(() => images.thumbnail(photo, 512, patient()))) / atOnce)
    }
    return {
      about: `the event loop while ${atOnce} renders of 1024 × 1024 and ${atOnce} thumbnails of 12 megapixels are made`,
      sides: [],
      findings: [
        { what: 'P99 of event-loop lag, all at once', unit: 'ms', values: busy, target: { below: 10 } },
        { what: 'P99 of event-loop lag, nothing to do', unit: 'ms', values: quiet },
        { what: 'one render of 1024 × 1024', unit: 'ms', values: renderMs },
        { what: 'one thumbnail of 12 megapixels', unit: 'ms', values: thumbnailMs },
      ],
    }
  } finally {
    await images.close()
  }
}
