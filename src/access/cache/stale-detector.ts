import { isDeepStrictEqual } from 'node:util'
import type { Clock } from '../../kit/clock.ts'
import type { Lookup, TtlMap } from '../../kit/ttl-map.ts'
import type { Log } from '../../platform/log.ts'
import { defaultLeaseTiming, deriveTiming, type LeaseTiming } from '../invalidation/timing.ts'
import { toFactQuery } from '../policy/facts/queries.ts'
import { definitionOf, type Fact, type FactKey, type FactKind, kindOf } from '../policy/facts/registry.ts'
import type { LoadFacts } from './tiered-loader.ts'

/** How often memory is compared, and how many facts at a time. */
export const staleCheckMs = 5_000
const maxFacts = 50
/** Entries that are passed over because their time is up are looked at too, so that has a bound of its own. */
const maxLooked = 500

type Held = Lookup<Fact[FactKind]>
type Suspect = { readonly key: FactKey; readonly held: Held; readonly actual: Fact[FactKind] | null }

/**
 * The alarm of the cache itself: compares what memory holds with what Postgres says, a few facts at a time by turns.
 *
 * Promise: a fact that differs is counted as stale only if memory still holds it, unheard of and unchanged, after one and a
 * half leases and under a valid lease: a change under way is none. What is stale is counted, logged as
 * `cache.stale_fact` and dropped from both caches. It costs one statement a round, on a pool of its own, and nothing
 * counts as used because it was looked at. What nobody would believe (no lease, the tier switched off) is not compared.
 */
export type StaleDetector = {
  /** One round; resolves when it is through, at once while another is under way. */
  run(): Promise<void>
  /** Since the start. */
  readonly counts: { readonly compared: number; readonly stale: number }
  /** What is under way ends without a verdict. */
  stop(): void
}

type Dependencies = {
  readonly memory: Pick<TtlMap<Fact[FactKind]>, 'peek' | 'keysByInsertion' | 'ageMs'>
  /** What Postgres says, past every cache. */
  readonly load: LoadFacts
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
  let turns = memory.keysByInsertion()
  let busy = false
  let stopped = false

  const isBelieved = () => !stopped && flags.l1 && clock.monotonic() < lease.untilMs

  /** The next ones, from the beginning again after the last; none twice. */
  const take = (): Map<FactKey, Held> => {
    const taken = new Map<FactKey, Held>()
    let begun = 0
    for (let looked = 0; looked < maxLooked && taken.size < maxFacts && begun < 2; looked += 1) {
      const { value, done } = turns.next()
      if (done) {
        turns = memory.keysByInsertion()
        begun += 1
        continue
      }
      const held = memory.peek(value)
      if (held.kind !== 'miss') taken.set(value as FactKey, held)
    }
    return taken
  }

  const differs = (key: FactKey, held: Held, actual: Fact[FactKind] | null) =>
    !isSame(kindOf(key), factOf(held), actual, clock.now())
  const factOf = (held: Held) => (held.kind === 'hit' ? held.value : null)

  const findSuspects = async (): Promise<Suspect[]> => {
    const taken = take()
    if (taken.size === 0) return []
    const { facts } = await load([...taken.keys()].map(toFactQuery))
    return [...taken].flatMap(([key, held]) => {
      const actual = facts.get(key)
      if (actual === undefined || memory.peek(key) !== held) return []
      counts.compared += 1
      return differs(key, held, actual) ? [{ key, held, actual }] : []
    })
  }

  const judge = async ({ key, held, actual }: Suspect): Promise<void> => {
    // What was invalidated or fetched anew meanwhile is held by another object, or not at all.
    if (!isBelieved() || memory.peek(key) !== held || !differs(key, held, actual)) return
    counts.stale += 1
    const ageMs = Math.round(memory.ageMs(key) ?? 0)
    const values = definitionOf(kindOf(key)).secret ? {} : { held: factOf(held), actual }
    log.error({ event: 'cache.stale_fact', key, age_ms: ageMs, ...values }, 'memory held what was no longer so')
    await drop(key)
  }

  return {
    counts,
    run: async () => {
      if (busy || !isBelieved()) return
      busy = true
      try {
        const suspects = await findSuspects()
        if (suspects.length === 0) return
        await pause(secondCheckMs)
        for (const suspect of suspects) await judge(suspect)
      } finally {
        busy = false
      }
    },
    stop: () => {
      stopped = true
    },
  }
}
