import type { Clock } from '../../kit/clock.ts'
import { createDeadlines } from '../../kit/deadline.ts'
import { createTtlMap } from '../../kit/ttl-map.ts'
import type { Log } from '../../platform/log.ts'
import type { FactCache } from '../cache/fact-cache.ts'
import { factQuery, principalQueries, resourceQuery } from '../policy/facts/queries.ts'
import type { ResourceRef } from '../policy/matrix.ts'
import type { HotPair, WarmUpStore } from './warm-up-store.ts'

/** Pairs that one statement prefetches. */
const batchPairs = 50
/** Between two batches, so that requests get their turn. */
const pauseMs = 10
/** How often the start checks for the first lease. */
const leaseCheckMs = 25
/** The deadline of one prefetch. */
const prefetchMs = 5_000
const maxWaiting = 1_000
const maxConcurrent = 2
/** How many resources of a user are prefetched where one more entry would evict another. */
const maxWhenFull = 10
/** A user who signs in again within this time still has its resources in memory. */
const recentMs = 30_000

export type SignedIn = { readonly userId: string; readonly sessionId: string }

/**
 * Prefetches facts before they are asked for: the hottest pairs at the start, and a user's own resources at its sign-in.
 *
 * Guarantee: no request waits for it. It uses the batch pool and loads that no request joins, in batches with pauses, for
 * two users at a time. Prefetched facts follow the same rules as loaded ones, so none is stale. It stops before it would
 * evict entries in use.
 *
 * Degrades: while 1,000 users wait, further sign-ins are dropped; a prefetch that fails is not retried.
 */
export type WarmUp = {
  /** Prefetches the hottest pairs once the instance holds a lease. Resolves when that is done; never rejects. */
  start(): Promise<void>
  /** Queues the user. Of several sessions that wait, the newest is prefetched. */
  signedIn(user: SignedIn): void
  readonly counts: {
    readonly pairs: number
    readonly people: number
    readonly dropped: number
    readonly failed: number
  }
  /** Starts no further prefetch. */
  stop(): void
}

type Dependencies = {
  readonly store: WarmUpStore
  readonly facts: Pick<FactCache, 'prefetch'>
  readonly memory: { readonly wouldEvict: boolean }
  /** Whether memory has room for facts that no request asked for. */
  readonly hasRoom: () => boolean
  readonly lease: { readonly untilMs: number }
  readonly flags: { readonly current: { readonly warm_up: boolean }; reload(): Promise<void> }
  readonly clock: Clock
  readonly log: Log
  /** Resolves after a delay. */
  readonly pause?: (ms: number) => Promise<void>
}

const afterTimeout = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

const chunksOf = <T>(items: readonly T[], size: number): T[][] =>
  Array.from({ length: Math.ceil(items.length / size) }, (_, index) => items.slice(index * size, (index + 1) * size))

export const createWarmUp = (dependencies: Dependencies): WarmUp => {
  const { store, facts, memory, hasRoom, lease, flags, clock, log, pause = afterTimeout } = dependencies
  const counts = { pairs: 0, people: 0, dropped: 0, failed: 0 }
  /** Session by user. */
  const waiting = new Map<string, string>()
  const recent = createTtlMap<true>({ clock, maxEntries: maxWaiting, ttlMs: recentMs })
  let workers = 0
  let stopped = false

  const isOff = () => stopped || !flags.current.warm_up
  const startDeadline = createDeadlines(clock)
  const withinDeadline = <T>(work: Promise<T>): Promise<T> => startDeadline(prefetchMs).run(work)

  const prefetchPairs = (pairs: readonly HotPair[]) =>
    facts.prefetch(
      pairs.flatMap(({ userId, sessionId, ref }) => [
        ...(sessionId === null ? [factQuery('account', userId)] : principalQueries(sessionId, userId)),
        resourceQuery(ref, userId),
      ]),
    )

  const prefetchHottest = async () => {
    while (clock.monotonic() >= lease.untilMs) {
      if (stopped) return
      await pause(leaseCheckMs)
    }
    // A switch may have been turned since the start read them.
    await flags.reload()
    if (isOff()) return
    const startedMs = clock.monotonic()
    for (const pairs of chunksOf(await withinDeadline(store.hottest()), batchPairs)) {
      if (isOff() || !hasRoom()) break
      await withinDeadline(prefetchPairs(pairs))
      counts.pairs += pairs.length
      await pause(pauseMs)
    }
    log.info({ pairs: counts.pairs, ms: Math.round(clock.monotonic() - startedMs) }, 'prefetched the hottest pairs')
  }

  const prefetchResources = async (userId: string, resources: readonly ResourceRef[]) => {
    for (const refs of chunksOf(resources, 2 * batchPairs)) {
      if (isOff()) return
      await withinDeadline(facts.prefetch(refs.map((ref) => resourceQuery(ref, userId))))
    }
  }

  const prefetchOwn = async ({ userId, sessionId }: SignedIn) => {
    const isRecent = recent.get(userId).kind === 'hit'
    // The session first: the next request uses it.
    await withinDeadline(facts.prefetch(principalQueries(sessionId, userId)))
    if (isRecent || isOff()) return
    const resources = await withinDeadline(store.findOwn(userId))
    await prefetchResources(userId, memory.wouldEvict ? resources.slice(0, maxWhenFull) : resources)
    recent.set(userId, true)
  }

  const countFailure = (error: unknown) => {
    counts.failed += 1
    log.debug({ error }, 'prefetch failed')
  }

  const prefetchWaiting = async () => {
    // The response of the sign-in goes out first.
    await pause(0)
    for (let [first] = waiting; first !== undefined; [first] = waiting) {
      const [userId, sessionId] = first
      waiting.delete(userId)
      if (isOff()) continue
      await prefetchOwn({ userId, sessionId }).then(() => {
        counts.people += 1
      }, countFailure)
    }
    workers -= 1
  }

  return {
    counts,
    start: () => prefetchHottest().catch(countFailure),
    signedIn: ({ userId, sessionId }) => {
      if (isOff()) return
      if (waiting.size >= maxWaiting && !waiting.has(userId)) {
        counts.dropped += 1
        return
      }
      waiting.set(userId, sessionId)
      if (workers === maxConcurrent) return
      workers += 1
      void prefetchWaiting()
    },
    stop: () => {
      stopped = true
      waiting.clear()
    },
  }
}
