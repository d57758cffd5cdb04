import { hashSync } from '@node-rs/argon2'
import { argon2Options } from '../../../src/identity/passwords.ts'
import type { Measured } from '../load/send.ts'

/** The library alone on a number of threads, with `outstanding` verifications at any time. */
export type Argon2Job = { workers: number; outstanding: number; seconds: number }

const password = 'correct horse battery'
const warmUpMs = 300

const verifyBackToBack = async ({ workers, outstanding, seconds }: Argon2Job): Promise<Measured> => {
  const work = { hash: hashSync(password, argon2Options), password }
  const threads = Array.from({ length: workers }, () => new Worker(new URL('./argon2-thread.ts', import.meta.url).href))
  const fromMs = performance.now() + warmUpMs
  const untilMs = fromMs + seconds * 1_000
  const latencies: number[] = []
  let wrong = 0
  const keepBusy = (thread: Worker, share: number) =>
    new Promise<void>((resolve) => {
      const begun: number[] = []
      const begin = () => {
        begun.push(performance.now())
        thread.postMessage(work)
      }
      thread.onmessage = ({ data: matches }: MessageEvent<boolean>) => {
        const nowMs = performance.now()
        const begunMs = begun.shift() ?? nowMs
        if (nowMs > untilMs) return resolve()
        if (!matches) wrong += 1
        if (nowMs > fromMs) latencies.push(nowMs - begunMs)
        begin()
      }
      for (let index = 0; index < share; index += 1) begin()
    })
  await Promise.all(threads.map((thread) => keepBusy(thread, Math.ceil(outstanding / workers))))
  latencies.sort((a, b) => a - b)
  const percentile = (share: number) => latencies[Math.ceil(share * latencies.length) - 1] ?? Number.NaN
  return {
    requests: latencies.length,
    errors: wrong === 0 ? {} : { 'did not match': wrong },
    perSecond: latencies.length / seconds,
    p50Ms: percentile(0.5),
    p95Ms: percentile(0.95),
    p99Ms: percentile(0.99),
  }
}

console.log(JSON.stringify(await verifyBackToBack(JSON.parse(process.argv[2] ?? ''))))
process.exit(0)
