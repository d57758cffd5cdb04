import { lowerThreadPriority } from '../platform/thread-priority.ts'
import { createDetector } from './detector.ts'
import { createRingReader } from './ring.ts'
import { judge, judgePlace } from './rules.ts'
import type { FromWorker, ToWorker } from './worker-messages.ts'

/** The thread that detects anomalies. */
declare const self: Worker

lowerThreadPriority(10)

const maxNumbers = 20_000

type Running = { readonly tick: (message: Extract<ToWorker, { type: 'tick' }>) => FromWorker }

const start = ({ ring, from, near }: Extract<ToWorker, { type: 'start' }>): Running => {
  const nearby = new Set(near.flatMap(([one, other]) => [`${one} ${other}`, `${other} ${one}`]))
  /** The latest record of each principal. */
  const numbers = new Map<number, number>()
  const reader = createRingReader(ring, from)
  const detector = createDetector({
    judges: { judge, judgePlace },
    areNear: (one, other) => nearby.has(`${one} ${other}`),
  })
  return {
    tick: ({ nowMs, deltas }) => {
      const lost = reader.read(nowMs, (seen) => {
        numbers.delete(seen.principal)
        numbers.set(seen.principal, seen.number)
        if (numbers.size > maxNumbers) numbers.delete(numbers.keys().next().value ?? 0)
        detector.observe(seen)
      })
      detector.merge(deltas)
      const { findings, exchanged } = detector.tick(nowMs)
      return {
        type: 'tick',
        findings: findings.map((finding) => ({ ...finding, seen: numbers.get(finding.principal) })),
        exchanged,
        lost,
        ...detector.size,
      }
    },
  }
}

let running: Running | undefined
self.onmessage = ({ data }: MessageEvent<ToWorker>) => {
  if (data.type === 'start') running = start(data)
  else if (running !== undefined) self.postMessage(running.tick(data))
}
