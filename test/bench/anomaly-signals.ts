/**
 * What the signal of one request costs the thread that answers it: hashes of the person, the session and the path, and one write to
 * the ring. And what the other thread needs for it.
 *
 * Usage: bun test/bench/anomaly-signals.ts, or deno run -A test/bench/anomaly-signals.ts
 */
import { createDetector } from '../../src/anomaly/detector.ts'
import { createRingReader } from '../../src/anomaly/ring.ts'
import { judge, judgePlace } from '../../src/anomaly/rules.ts'
import { createSignals } from '../../src/anomaly/signals.ts'

const people = 500
const resources = 5_000
const rounds = 200
const perRound = 10_000
const id = (at: number) =>
  `0190${at.toString(16).padStart(4, '0')}-7000-7000-8000-${(at * 2_654_435_761).toString(16).padStart(12, '0')}`
const contexts = Array.from({ length: people }, (_, at) => ({
  principal: { userId: id(at), sessionId: id(at + people) },
  place: { network: at, country: 17_477, device: at % 6 },
}))
const requests = Array.from({ length: resources }, (_, at) => ({
  url: `http://localhost:3000/api/v1/generations/${id(at + 7_000)}`,
}))

const signals = createSignals({ high: 1, low: 2, subject: 3 })
const reader = createRingReader(signals.ring)
const detector = createDetector({ judges: { judge, judgePlace }, areNear: () => false })

type Given = Parameters<typeof signals.answered>
const ns: number[] = []
const readNs: number[] = []
for (let round = 0; round < rounds; round += 1) {
  const startedMs = performance.now()
  for (let at = 0; at < perRound; at += 1)
    signals.answered(requests[(at * 7) % resources] as Given[0], contexts[at % people] as Given[1], 200, undefined)
  ns.push(((performance.now() - startedMs) * 1e6) / perRound)
  const readMs = performance.now()
  reader.read(round * 2_000, detector.observe)
  detector.tick(round * 2_000)
  readNs.push(((performance.now() - readMs) * 1e6) / perRound)
}
const median = (values: number[]) => values.slice(rounds / 4).toSorted((one, other) => one - other)[rounds >> 2] ?? 0
console.log(
  `a signal: ${median(ns).toFixed(0)} ns of the thread that answers, ${median(readNs).toFixed(0)} ns of the other one`,
)
