import type { Clock } from '../../kit/clock.ts'
import { yieldToEventLoop } from '../../kit/pause.ts'
import type { Log } from '../../platform/log.ts'
import { type RedisCache, redisTtlMs } from '../cache/redis-cache.ts'
import { type FactKey, isWhole } from '../policy/facts/model.ts'
import type { InvalidationEvent, InvalidationKeys } from './bus.ts'
import type { EventStore } from './event-store.ts'
import type { PendingInvalidations, ReceivedEvent } from './pending-invalidations.ts'

/** How often what the outer cache has confirmed is written down. */
const flushMs = 100
const sweepMs = 2_000
/** What nobody has seen to for this long, its writer is gone. */
const takeoverAfterMs = 2_000
/**
 * This long after a change was committed nothing in the outer cache can be older than it: what was read before the commit
 * was written back soon after, and lives for a third of this. Counted from when the event was heard of here, which is
 * after the commit; its row only tells when it was published, and a transaction may take its time after that.
 */
const maxCachedAgeMs = 3 * redisTtlMs
const maxIds = 500
/** How many events are looked at in one go, and how many goes a sweep has. */
const maxLooked = 1_000
const maxGoes = 10
/** Everything, and the parts of a whole, are under names that nobody knows. */
const isNamed = (touched: InvalidationKeys): touched is readonly FactKey[] =>
  touched !== 'everything' && !touched.some(isWhole)
/** The name of no server. */
const noServer = '-'

/**
 * Sees to it that the outer cache forgets what was changed.
 *
 * Promise: an event stands, here and in Postgres, until the outer cache has confirmed it, whichever instance sees to that:
 * its writer at once, anybody when that is gone. Where none can be reached, and where an event touched everything
 * or all that was granted to somebody, it stands until nothing older than it can be left, so what stands is bounded by the
 * changes of that time. Waits on nobody's behalf; however much stands, a sweep lets others have their turn.
 */
export type Outbox = {
  /** A change of this instance was committed. */
  enqueue(event: InvalidationEvent): void
  /** Somebody removed these; `incarnation` is the server that was made to forget. */
  onConfirmed(ids: readonly string[], incarnation: string): void
  close(): Promise<void>
}

export const createOutbox = ({
  redisCache,
  pendingInvalidations,
  store,
  clock,
  log,
}: {
  /** Undefined: there is none, and nothing to forget. */
  redisCache: RedisCache | undefined
  pendingInvalidations: PendingInvalidations
  store: EventStore
  clock: Clock
  log: Log
}): Outbox => {
  /** Events, by the server that was made to forget them. */
  const forgotten = new Map<string, string[]>()
  let closed = false

  const note = (id: string, incarnation: string) => {
    const ids = forgotten.get(incarnation)
    if (ids === undefined) forgotten.set(incarnation, [id])
    else ids.push(id)
  }

  /** The server that has forgotten; undefined when none has for certain, or another has taken its place. */
  const deleteFromCache = async (keys: readonly FactKey[]): Promise<string | undefined> => {
    if (redisCache === undefined) return noServer
    const { serverRunId } = redisCache
    return (await redisCache.invalidate(keys)) && redisCache.serverRunId === serverRunId ? serverRunId : undefined
  }

  const forget = async ({ id, keys }: InvalidationEvent): Promise<void> => {
    if (!isNamed(keys)) return
    const incarnation = await deleteFromCache(keys)
    if (incarnation !== undefined) note(id, incarnation)
  }

  const flush = async (): Promise<void> => {
    for (const [incarnation, ids] of forgotten) {
      forgotten.delete(incarnation)
      while (ids.length > 0) await store.remove(ids.splice(0, maxIds), incarnation)
    }
  }

  /** Of an event that was confirmed for another server than the one we ask, or confirmed unheard. */
  const forgetHere = async ({ id, keys }: InvalidationEvent): Promise<void> => {
    if (!isNamed(keys) || (await deleteFromCache(keys)) !== undefined) pendingInvalidations.remove([id])
  }

  /** Takes turns, so that each is looked at however many there are. */
  let turns = pendingInvalidations.list()
  const nextBatch = (): ReceivedEvent[] => {
    const taken: ReceivedEvent[] = []
    while (taken.length < maxLooked) {
      const { value, done } = turns.next()
      if (done) {
        turns = pendingInvalidations.list()
        break
      }
      taken.push(value)
    }
    return taken
  }

  const reconcile = async (held: readonly ReceivedEvent[]): Promise<void> => {
    const left = await store.listPending(held.map(({ id }) => id))
    const nowMs = clock.monotonic()
    for (const event of held) {
      const ageMs = nowMs - event.receivedAtMs
      const isOutlived = ageMs > maxCachedAgeMs
      if (!left.has(event.id)) {
        if (isOutlived) pendingInvalidations.remove([event.id])
        else await forgetHere(event)
      } else if (isOutlived) note(event.id, redisCache?.serverRunId ?? noServer)
      else if (ageMs >= takeoverAfterMs) await forget(event)
    }
  }

  const sweep = async (): Promise<void> => {
    for (let go = 0; go < maxGoes; go += 1) {
      const held = nextBatch()
      if (held.length > 0) await reconcile(held)
      if (held.length < maxLooked) return
      await yieldToEventLoop()
    }
  }

  const every = (ms: number, work: () => Promise<void>) => {
    let busy = false
    return setInterval(() => {
      if (busy) return
      busy = true
      work()
        .catch((error) => log.debug({ error }, 'the outbox could not be seen to'))
        .finally(() => {
          busy = false
        })
    }, ms)
  }
  const timers = [every(flushMs, flush), every(sweepMs, sweep)]

  return {
    enqueue: (event) => {
      pendingInvalidations.add(event)
      if (!closed) void forget(event)
    },
    onConfirmed: (ids, incarnation) => {
      const isOurs = redisCache === undefined || redisCache.serverRunId === incarnation
      if (isOurs) return pendingInvalidations.remove(ids)
      // Another server was made to forget than the one we ask.
      for (const id of ids) {
        const event = pendingInvalidations.find(id)
        if (event !== undefined) void forgetHere(event)
      }
    },
    close: async () => {
      closed = true
      for (const timer of timers) clearInterval(timer)
      await flush().catch(() => {})
    },
  }
}
