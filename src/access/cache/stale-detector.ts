import { isDeepStrictEqual } from 'node:util'
import type { Clock } from '../../kit/clock.ts'
import type { Lookup, TtlMap } from '../../kit/ttl-map.ts'
import type { Log } from '../../platform/log.ts'
import { defaultLeaseTiming, deriveTiming, type LeaseTiming } from '../invalidation/timing.ts'
import { toFactQuery } from '../policy/facts/queries.ts'
import { definitionOf, type Fact, type FactKey, type FactKind, kindOf } from '../policy/facts/registry.ts'
import { isInMemory } from './gather.ts'
import type { LoadFacts } from './tiered-loader.ts'

/** How often a round runs, and how many facts it compares at most. */
export const staleCheckMs = 5_000
const maxFacts = 50
/** How many entries a round visits at most. Expired ones are visited but not compared. */
const maxVisited = 500

type Held = Lookup<Fact[FactKind]>
type Suspect = { readonly key: FactKey; readonly held: Held; readonly actual: Fact[FactKind] | null }

/**
 * Compares facts in memory with Postgres, a few in each round, and raises an alarm for a stale one.
 *
 * Guarantee: no false alarm for a change whose invalidation is still on its way. A fact that differs is reported only if
 * memory holds the very same entry 1.5 times the duration of a lease later (1.5 s by default) and a lease is held then:
 * under that lease the invalidation of a change that Postgres showed before would have arrived and removed the entry.
 * Postgres is not read a second time.
 *
 * A stale fact is counted, logged as `cache.stale_fact`, dropped from memory here, and invalidated as by a change of it: on every
 * instance, and no entry of it in Redis is served until Redis has confirmed its deletion. If the invalidation cannot be
 * committed, that is logged as `cache.stale_fact_not_invalidated`, and a later round detects the fact again where it is loaded
 * from Redis.
 *
 * Costs one statement a round, outside the pool of requests, and leaves the order of eviction as it is. Degrades: compares
 * nothing without a lease, when memory serves at most stale reads, and with `l1` off only kinds that memory serves nevertheless.
 */
export type StaleDetector = {
  /** Runs one round. Skipped while another is running. */
  run(): Promise<void>
  /** Since the start. */
  readonly counts: { readonly compared: number; readonly stale: number }
  /** Ends the detector for good. A round in progress counts, logs and drops nothing more. */
  stop(): void
}

type Dependencies = {
  readonly memory: Pick<TtlMap<Fact[FactKind]>, 'peek' | 'keysByInsertion' | 'ageMs'>
  /** Reads Postgres, bypassing memory and Redis. With `l3` on, access comes from the table that triggers maintain. */
  readonly load: LoadFacts
  /** Removes the fact from the memory of this instance, then publishes its invalidation. */
  readonly drop: (key: FactKey) => Promise<void>
  readonly lease: { readonly untilMs: number }
  readonly flags: { readonly l1: boolean }
  readonly clock: Clock
  readonly log: Log
  readonly timing?: LeaseTiming | undefined
  readonly pause?: (ms: number) => Promise<void>
}

const wait = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

/** Whether two facts mean the same, by the definition of their kind. */
const isSame = (kind: FactKind, one: Fact[FactKind] | null, other: Fact[FactKind] | null, nowMs: number): boolean => {
  const { comparable } = definitionOf(kind)
  if (comparable === undefined) return isDeepStrictEqual(one, other)
  const view = (fact: Fact[FactKind] | null, against: Fact[FactKind] | null) =>
    fact === null ? null : comparable(fact, against, nowMs)
  return isDeepStrictEqual(view(one, other), view(other, one))
}

export const createStaleDetector = (dependencies: Dependencies): StaleDetector => {
  const { memory, load, drop, lease, flags, clock, log, timing = defaultLeaseTiming, pause = wait } = dependencies
  const { secondCheckMs } = deriveTiming(timing)
  const counts = { compared: 0, stale: 0 }
  let cursor = memory.keysByInsertion()
  let busy = false
  let stopped = false

  const isTrusted = () => !stopped && clock.monotonic() < lease.untilMs

  /** The next entries to compare, none twice. The cursor starts over after the last entry. */
  const nextEntries = (): Map<FactKey, Held> => {
    const taken = new Map<FactKey, Held>()
    let passes = 0
    for (let visited = 0; visited < maxVisited && taken.size < maxFacts && passes < 2; visited += 1) {
      const { value, done } = cursor.next()
      if (done) {
        cursor = memory.keysByInsertion()
        passes += 1
        continue
      }
      const key = value as FactKey
      if (!isInMemory(kindOf(key), flags)) continue
      const held = memory.peek(key)
      if (held.kind !== 'miss') taken.set(key, held)
    }
    return taken
  }

  const differs = (key: FactKey, held: Held, actual: Fact[FactKind] | null) =>
    !isSame(kindOf(key), factOf(held), actual, clock.now())
  const factOf = (held: Held) => (held.kind === 'hit' ? held.value : null)

  const findSuspects = async (): Promise<Suspect[]> => {
    const taken = nextEntries()
    if (taken.size === 0) return []
    const { facts } = await load([...taken.keys()].map(toFactQuery))
    return [...taken].flatMap(([key, held]) => {
      const actual = facts.get(key)
      if (actual === undefined || memory.peek(key) !== held) return []
      counts.compared += 1
      return differs(key, held, actual) ? [{ key, held, actual }] : []
    })
  }

  const report = async ({ key, held, actual }: Suspect): Promise<void> => {
    // Compared by identity: an entry that was invalidated or reloaded in the meantime is another object, or gone.
    if (!isTrusted() || !isInMemory(kindOf(key), flags) || memory.peek(key) !== held || !differs(key, held, actual))
      return
    counts.stale += 1
    const ageMs = Math.round(memory.ageMs(key) ?? 0)
    const values = definitionOf(kindOf(key)).secret ? {} : { held: factOf(held), actual }
    log.error({ event: 'cache.stale_fact', key, age_ms: ageMs, ...values }, 'memory held a stale fact')
    await drop(key).catch((error) => {
      log.error(
        { event: 'cache.stale_fact_not_invalidated', key, error },
        'a stale fact could not be invalidated everywhere',
      )
    })
  }

  return {
    counts,
    run: async () => {
      if (busy || !isTrusted()) return
      busy = true
      try {
        const suspects = await findSuspects()
        if (suspects.length === 0) return
        await pause(secondCheckMs)
        for (const suspect of suspects) await report(suspect)
      } finally {
        busy = false
      }
    },
    stop: () => {
      stopped = true
    },
  }
}
