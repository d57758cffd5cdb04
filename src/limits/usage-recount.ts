import type { Clock } from '../kit/clock.ts'
import type { Log } from '../platform/log.ts'
import type { UsageDifference, UsageStore } from './usage-store.ts'

/** How often an instance looks whether the recount is due. */
export const usagePollMs = 60_000
const minPauseMs = 3_600_000
const maxPauseMs = 86_400_000
/** The recount takes at most a hundredth of the time of one connection, unless a day is not enough for that. */
const pauseFactor = 100
const maxLogged = 100

const firstId = '00000000-0000-0000-0000-000000000000'

/** The pause after a recount: 100 times its duration, between an hour and a day. */
const pauseAfter = (tookMs: number): number => Math.min(Math.max(pauseFactor * tookMs, minPauseMs), maxPauseMs)

/**
 * Compares the counters of stored bytes and projects with the media and projects of the accounts, and corrects wrong ones.
 * Triggers keep them right, so a difference means that a table was changed without them: with `session_replication_role =
 * replica`, with a disabled trigger, or in account_usage.
 *
 * Guarantee: a wrong counter is counted anew and logged as an error; concurrent changes count. Of all instances one runs it, every
 * hour while it takes up to 36 s, else after 100 times its duration and at least once a day; and within a minute after a disabled
 * trigger was enabled. It reads every row of media and projects, in slices of 1,000 accounts, and locks only counters that differ,
 * one at a time.
 */
export const createUsageRecount = ({
  store,
  clock,
  log,
}: {
  store: UsageStore
  clock: Pick<Clock, 'monotonic'>
  log: Log
}) => {
  const recountAll = async (): Promise<{ found: number; sample: UsageDifference[] }> => {
    const sample: UsageDifference[] = []
    let found = 0
    for (let after: string | undefined = firstId; after !== undefined; ) {
      const slice: Awaited<ReturnType<UsageStore['findWrongAfter']>> = await store.findWrongAfter(after)
      for (const userId of slice.accounts) {
        const difference = await store.recount(userId)
        if (difference === undefined) continue
        found += 1
        if (sample.length < maxLogged) sample.push(difference)
      }
      after = slice.next
    }
    return { found, sample }
  }

  const run = async (): Promise<void> => {
    const startedMs = clock.monotonic()
    const { found, sample } = await recountAll()
    const tookMs = Math.round(clock.monotonic() - startedMs)
    const pauseMs = pauseAfter(tookMs)
    await store.complete(tookMs, pauseMs)
    const cost = { took_ms: tookMs, next_in_ms: pauseMs }
    if (found === 0) {
      log.debug({ event: 'usage.counted', ...cost }, 'the counters of stored bytes and projects are right')
      return
    }
    log.error(
      { event: 'usage.counters_differ', differences: sample, found, ...cost },
      'counters of stored bytes and projects were wrong; they were counted anew',
    )
  }

  return {
    /** Runs the recount now. */
    run,
    /** Runs the recount if it is due and no other instance has claimed it. */
    poll: async (): Promise<void> => {
      if (await store.claim()) await run()
    },
  }
}
