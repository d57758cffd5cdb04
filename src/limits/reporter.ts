import type { Clock } from '../kit/clock.ts'
import type { Answer, Exchange } from './exchange.ts'
import { type Key, prepareReport, restoreReport, settleReport } from './key.ts'
import type { KeyMap } from './key-map.ts'

/** How long instances have to report their windows to another server before its answers count. */
const completeAfterMs = 1_000
/** Keys in one exchange. */
const batchSize = 200
/** For an exchange that no request waits for. */
const backgroundMs = 100

type Wanted = { readonly costs?: readonly number[]; readonly isPartial?: boolean; readonly withinMs?: number }

type Dependencies = {
  readonly clock: Pick<Clock, 'monotonic'>
  readonly exchange: Exchange
  readonly keys: KeyMap
  readonly instances: () => number
  readonly maxKeys: number
  readonly everyMs: number
}

/**
 * Reports admitted units in the background, and asks the exchange for requests that wait.
 *
 * Guarantee: units admitted while the exchange was not reached are reported when it is, and to another server the whole
 * window of every key. `isShared` is false until all instances have had the time for that.
 */
export const createReporter = ({ clock, exchange, keys, instances, maxKeys, everyMs }: Dependencies) => {
  const dirty = new Set<Key>()
  let timer: ReturnType<typeof setTimeout> | undefined
  let dueAtMs = Number.POSITIVE_INFINITY
  let running: Promise<void> | undefined
  let isClosed = false
  let knownEpoch: string | undefined
  let completeAtMs = Number.NEGATIVE_INFINITY

  const mark = (key: Key) => {
    if (key.isDirty) return
    key.isDirty = true
    dirty.add(key)
  }

  const noticeEpoch = (nowMs: number) => {
    const { epoch } = exchange
    if (epoch === undefined || epoch === knownEpoch) return
    knownEpoch = epoch
    let isFirst = true
    for (const key of keys.all()) {
      if (key.own.total === 0) continue
      isFirst = false
      mark(key)
    }
    if (!isFirst) completeAtMs = nowMs + completeAfterMs
  }

  /** The answers, which the keys have learnt from; undefined where the outcome is unknown. */
  const send = async (
    batch: readonly Key[],
    { costs = [], isPartial = false, withinMs = backgroundMs }: Wanted = {},
  ): Promise<readonly Answer[] | undefined> => {
    const { epoch } = exchange
    const sentAtMs = clock.monotonic()
    const reports = batch.map((key, at) =>
      prepareReport(key, { cost: costs[at] ?? 0, isPartial, nowMs: sentAtMs, epoch }),
    )
    for (const key of batch) dirty.delete(key)
    const answers = await exchange.exchange(reports, withinMs)
    const nowMs = clock.monotonic()
    for (const [at, report] of reports.entries()) {
      const key = batch[at]
      const answer = answers?.[at]
      if (key === undefined) continue
      const refusedCost = isPartial ? 1 : Math.max(1, report.cost)
      if (answer !== undefined) settleReport(key, answer, { refusedCost, instances: instances(), nowMs })
      else {
        restoreReport(key, report, nowMs)
        if (key.unreported.total > 0) mark(key)
      }
    }
    return answers
  }

  const run = async () => {
    dueAtMs = Number.POSITIVE_INFINITY
    // Also while the breaker is open: this is what probes.
    if (exchange.epoch === undefined) {
      if (dirty.size <= maxKeys) return
      for (const key of dirty) key.isDirty = false
      dirty.clear()
      return
    }
    noticeEpoch(clock.monotonic())
    const pending = [...dirty]
    for (let at = 0; at < pending.length; at += batchSize) {
      if ((await send(pending.slice(at, at + batchSize))) === undefined) return
    }
  }

  const start = () => {
    clearTimeout(timer)
    running ??= run().finally(() => {
      running = undefined
      schedule(everyMs)
    })
  }

  /** Whichever is due first. There is always a next run, which also notices another server. */
  const schedule = (withinMs: number) => {
    const atMs = clock.monotonic() + withinMs
    if (atMs >= dueAtMs || running !== undefined || isClosed) return
    dueAtMs = atMs
    clearTimeout(timer)
    timer = setTimeout(start, withinMs)
  }

  schedule(everyMs)

  return {
    /** Reports the key within this time. */
    report: (key: Key, withinMs = everyMs): void => {
      mark(key)
      if (withinMs < everyMs) schedule(withinMs)
    },
    /** Whether the exchange can be asked, and knows what all instances admitted. */
    isShared: (nowMs: number): boolean => {
      if (!exchange.isAvailable()) return false
      noticeEpoch(nowMs)
      return nowMs >= completeAtMs
    },
    send,
    drop: (key: Key): void => void dirty.delete(key),
    /** The units admitted last count for the instances that stay. */
    close: async (): Promise<void> => {
      isClosed = true
      clearTimeout(timer)
      await running
      if (dirty.size > 0) await run()
    },
  }
}

export type Reporter = ReturnType<typeof createReporter>
