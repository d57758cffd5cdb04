/* What a record costs: `bun test/bench/recorder.ts`, `deno run -A test/bench/recorder.ts`. */
import { systemClock } from '../../src/kit/clock.ts'
import { createRecorder } from '../../src/monitoring/recorder.ts'

const rounds = 2_000_000
const recorder = createRecorder({ clock: systemClock })
const values = Float64Array.from({ length: 4_096 }, () => Math.random() ** 4 * 100)
const people = Array.from({ length: 500 }, () => crypto.randomUUID())

const measure = (name: string, run: (round: number) => void) => {
  let least = Number.POSITIVE_INFINITY
  for (let repeat = 0; repeat < 5; repeat += 1) {
    const startedMs = performance.now()
    for (let round = 0; round < rounds; round += 1) run(round)
    least = Math.min(least, ((performance.now() - startedMs) * 1e6) / rounds)
  }
  console.log(`${name}: ${least.toFixed(1)} ns`)
}

measure('a reading of the clock', () => void systemClock.monotonic())
measure('a record', (round) => recorder.record('api', values[round % 4_096] as number, false))
measure('a record at a known time', (round) =>
  recorder.record('authorization', values[round % 4_096] as number, false, 1_000),
)
measure('a principal', (round) => recorder.seen(people[round % 500] as string))
measure('a window of all metrics', (round) => {
  if (round % 10_000 === 0) recorder.window('1m')
})
