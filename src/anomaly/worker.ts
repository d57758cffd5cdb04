import { lowerThreadPriority } from '../platform/thread-priority.ts'
import { createDetector } from './detector.ts'
import { createRingReader } from './ring.ts'
import { judge, judgePlace } from './rules.ts'
import type { FromWorker, ToWorker } from './worker-messages.ts'

/** The thread that detects anomalies. */
declare const self: Worker

lowerThreadPriority(10)

type Running = { readonly tick: (message: Extract<ToWorker, { type: 'tick' }>) => FromWorker }

const start = ({ ring, near }: Extract<ToWorker, { type: 'start' }>): Running => {
  const nearby = new Set(near.flatMap(([one, other]) => [`${one} ${other}`, `${other} ${one}`]))
  const reader = createRingReader(ring)
  const detector = createDetector({
    judges: { judge, judgePlace },
    areNear: (one, other) => nearby.has(`${one} ${other}`),
  })
  return {
    tick: ({ nowMs, deltas }) => {
      const numbers = new Map<number, number>()
      const lost = reader.read(nowMs, (seen) => {
        numbers.set(seen.principal, seen.number)
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
