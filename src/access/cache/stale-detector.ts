import { isDeepStrictEqual } from 'node:util'
import type { Clock } from '../../kit/clock.ts'
import type { Lookup, TtlMap } from '../../kit/ttl-map.ts'
import type { Log } from '../../platform/log.ts'
import { defaultLeaseTiming, deriveTiming, type LeaseTiming } from '../invalidation/timing.ts'
import type { Fact, FactKey, FactKind, GrantsFact, SessionFact } from '../policy/facts/model.ts'
import type { FactQuery } from './fact-store.ts'
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

const toWanted = (key: FactKey): FactQuery => {
  const colon = key.indexOf(':')
  const [kind, id] = [key.slice(0, colon) as FactKind, key.slice(colon + 1)]
  if (kind !== 'grant') return { kind, id, userId: null }
  const [userId = '', projectId = ''] = id.split('/')
  return { kind, id: projectId, userId }
}

/** That they are many or few is no knowledge, nor is what one of them leaves out. */
const isSameGranted = (one: GrantsFact, other: GrantsFact): boolean => {
  if (one === 'many' || other === 'many') return true
  const except = new Set([...(one.except ?? []), ...(other.except ?? [])])
  const told = ({ granted }: typeof one) =>
    Object.fromEntries(Object.entries(granted).filter(([id]) => !except.has(id)))
  return isDeepStrictEqual(told(one), told(other))
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

  /** A session that is over opens as little as one that is gone, and that it is gone is told to nobody. */
  const meaningOf = (key: FactKey, fact: Fact[FactKind] | null) => {
    if (fact === null || !key.startsWith('session:')) return fact
    const { ended, expiresAtMs } = fact as SessionFact
    return ended || expiresAtMs <= clock.now() ? null : fact
  }
  const isSame = (key: FactKey, one: Fact[FactKind] | null, other: Fact[FactKind] | null) =>
    key.startsWith('grants:') && one !== null && other !== null
      ? isSameGranted(one as GrantsFact, other as GrantsFact)
      : isDeepStrictEqual(meaningOf(key, one), meaningOf(key, other))
  const factOf = (held: Held) => (held.kind === 'hit' ? held.value : null)

  const findSuspects = async (): Promise<Suspect[]> => {
    const taken = take()
    if (taken.size === 0) return []
    const { facts } = await load([...taken.keys()].map(toWanted))
    return [...taken].flatMap(([key, held]) => {
      const actual = facts.get(key)
      if (actual === undefined || memory.peek(key) !== held) return []
      counts.compared += 1
      return isSame(key, factOf(held), actual) ? [] : [{ key, held, actual }]
    })
  }

  const judge = async ({ key, held, actual }: Suspect): Promise<void> => {
    // What was invalidated or fetched anew meanwhile is held by another object, or not at all.
    if (!isBelieved() || memory.peek(key) !== held || isSame(key, factOf(held), actual)) return
    counts.stale += 1
    const ageMs = Math.round(memory.ageMs(key) ?? 0)
    // The hash of a secret is nothing for a log.
    const said = key.startsWith('service_key:') ? {} : { held: factOf(held), actual }
    log.error({ event: 'cache.stale_fact', key, age_ms: ageMs, ...said }, 'memory held what was no longer so')
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
