import type { Clock } from '../../kit/clock.ts'
import { createDeadlines } from '../../kit/deadline.ts'
import { createTtlMap } from '../../kit/ttl-map.ts'
import type { Log } from '../../platform/log.ts'
import type { FactCache } from '../cache/fact-cache.ts'
import { factQuery, principalQueries, resourceQuery } from '../policy/facts/queries.ts'
import type { ResourceRef } from '../policy/matrix.ts'
import type { HotPair, WarmUpStore } from './warm-up-store.ts'

/** Pairs that are fetched by one statement. */
const batchPairs = 50
/** Between two batches, so that requests come first. */
const pauseMs = 10
/** How often is looked whether memory may be believed yet. */
const leaseLookMs = 25
/** A fetch that takes longer helps nobody any more. */
const fetchMs = 5_000
const maxWaiting = 1_000
const atOnce = 2
/** What is fetched of a person's own where memory is full of what is in use. */
const whenCrowded = 10
/** Whoever signs in again within so long has its things here. */
const againMs = 30_000

export type SignedIn = { readonly userId: string; readonly sessionId: string }

/**
 * Fetches what is likely to be asked about before it is asked: at the start the hottest pairs, at every sign-in the
 * person's own.
 *
 * Promise: nobody waits for it. It goes by connections and statements of its own, which no request joins, a batch at a
 * time with pauses at the start, and `atOnce` people at a time; what it fetches is kept under the same rules as what a
 * request fetches, so it cannot make anything stale. It fills memory up to where it would displace what is in use. Where
 * more than `maxWaiting` people wait, more are not taken; what fails is forgotten.
 */
export type WarmUp = {
  /** Begins with the hottest pairs as soon as memory may be believed. Resolves when that is over, and never rejects. */
  start(): Promise<void>
  signedIn(who: SignedIn): void
  readonly counts: {
    readonly pairs: number
    readonly people: number
    readonly dropped: number
    readonly failed: number
  }
  /** Begins nothing any more. */
  stop(): void
}

type Dependencies = {
  readonly store: WarmUpStore
  readonly facts: Pick<FactCache, 'prefetch'>
  readonly memory: { readonly wouldEvict: boolean }
  /** Whether memory has room for what nobody has asked for yet. */
  readonly hasRoom: () => boolean
  readonly lease: { readonly untilMs: number }
  readonly flags: { readonly current: { readonly warm_up: boolean }; reload(): Promise<void> }
  readonly clock: Clock
  readonly log: Log
  /** Resolves after a while. */
  readonly pause?: (ms: number) => Promise<void>
}

const afterTimeout = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

const chunksOf = <T>(items: readonly T[], size: number): T[][] =>
  Array.from({ length: Math.ceil(items.length / size) }, (_, index) => items.slice(index * size, (index + 1) * size))

export const createWarmUp = (dependencies: Dependencies): WarmUp => {
  const { store, facts, memory, hasRoom, lease, flags, clock, log, pause = afterTimeout } = dependencies
  const counts = { pairs: 0, people: 0, dropped: 0, failed: 0 }
  /** By person; of several sessions the newest. */
  const waiting = new Map<string, string>()
  const known = createTtlMap<true>({ clock, maxEntries: maxWaiting, ttlMs: againMs })
  let busy = 0
  let stopped = false

  const isOff = () => stopped || !flags.current.warm_up
  const startDeadline = createDeadlines(clock)
  const withinTime = <T>(work: Promise<T>): Promise<T> => startDeadline(fetchMs).run(work)

  const fetchPairs = (pairs: readonly HotPair[]) =>
    facts.prefetch(
      pairs.flatMap(({ userId, sessionId, ref }) => [
        ...(sessionId === null ? [factQuery('account', userId)] : principalQueries(sessionId, userId)),
        resourceQuery(ref, userId),
      ]),
    )

  const fetchHottest = async () => {
    while (clock.monotonic() >= lease.untilMs) {
      if (stopped) return
      await pause(leaseLookMs)
    }
    // Read before they are gone by: at the start they may not be known yet.
    await flags.reload()
    if (isOff()) return
    const startedMs = clock.monotonic()
    for (const pairs of chunksOf(await withinTime(store.hottest()), batchPairs)) {
      if (isOff() || !hasRoom()) break
      await withinTime(fetchPairs(pairs))
      counts.pairs += pairs.length
      await pause(pauseMs)
    }
    log.info({ pairs: counts.pairs, ms: Math.round(clock.monotonic() - startedMs) }, 'warmed up')
  }

  const fetchThings = async (userId: string, things: readonly ResourceRef[]) => {
    for (const refs of chunksOf(things, 2 * batchPairs)) {
      if (isOff()) return
      await withinTime(facts.prefetch(refs.map((ref) => resourceQuery(ref, userId))))
    }
  }

  const fetchOwn = async ({ userId, sessionId }: SignedIn) => {
    const again = known.get(userId).kind === 'hit'
    // The session first: whatever is asked next comes with it.
    await withinTime(facts.prefetch(principalQueries(sessionId, userId)))
    if (again || isOff()) return
    const things = await withinTime(store.findOwn(userId))
    await fetchThings(userId, memory.wouldEvict ? things.slice(0, whenCrowded) : things)
    known.set(userId, true)
  }

  const note = (error: unknown) => {
    counts.failed += 1
    log.debug({ error }, 'something could not be fetched ahead')
  }

  const serve = async () => {
    // First the answer goes out.
    await pause(0)
    for (let [first] = waiting; first !== undefined; [first] = waiting) {
      const [userId, sessionId] = first
      waiting.delete(userId)
      if (isOff()) continue
      await fetchOwn({ userId, sessionId }).then(() => {
        counts.people += 1
      }, note)
    }
    busy -= 1
  }

  return {
    counts,
    start: () => fetchHottest().catch(note),
    signedIn: ({ userId, sessionId }) => {
      if (isOff()) return
      if (waiting.size >= maxWaiting && !waiting.has(userId)) {
        counts.dropped += 1
        return
      }
      waiting.set(userId, sessionId)
      if (busy === atOnce) return
      busy += 1
      void serve()
    },
    stop: () => {
      stopped = true
      waiting.clear()
    },
  }
}
