import { yieldToEventLoop } from '../../kit/async.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Log } from '../../platform/log.ts'
import { type RedisCache, redisTtlMs } from '../cache/redis-cache.ts'
import { type FactKey, isWhole } from '../policy/facts/registry.ts'
import type { EventStore } from './event-store.ts'
import type { InvalidationEvent, InvalidationKeys } from './model.ts'
import type { PendingInvalidations, ReceivedEvent } from './pending-invalidations.ts'

export type OutboxTiming = {
  /** How often confirmed events are removed from Postgres. */
  readonly flushMs: number
  readonly sweepMs: number
  /** After this the writer of an event is taken for gone, and any instance deletes its keys. */
  readonly takeoverAfterMs: number
}
const defaultTiming: OutboxTiming = { flushMs: 100, sweepMs: 2_000, takeoverAfterMs: 2_000 }

/**
 * An event older than this leaves no entry in Redis that predates it: a value read before the commit was filled in soon
 * after, and lives for a third of this. Counted from when the event was received here, which is after its commit; the row's
 * timestamp is when it was published, and its transaction may commit any time later.
 */
const maxCachedAgeMs = 3 * redisTtlMs
/** How many rows one statement removes. */
const maxRemoved = 500
/** How many events a batch of a sweep has, and how many batches a sweep has. */
const maxBatch = 1_000
const maxBatches = 10
/** Redis can delete these by name. It does not know the names under `everything`, nor the parts of a whole. */
const canBeDeletedByName = (keys: InvalidationKeys): keys is readonly FactKey[] =>
  keys !== 'everything' && !keys.some(isWhole)
/** Stands for the epoch under which an event is confirmed that no entry can predate. */
const anyEpoch = '-'

/**
 * Deletes the keys of committed events from Redis, and removes an event once Redis has confirmed that.
 *
 * Guarantee: an event stays pending, here and in its Postgres row, until Redis has confirmed it. Its writer deletes the
 * keys at once; two seconds later any instance takes over. An event that Redis cannot delete by name, or cannot be reached
 * for, stays pending until no entry that predates it can be left.
 *
 * Costs: no request waits for it. Pending events are bounded by the changes of that time; a sweep looks at 1,000 of them
 * at a time and yields to the event loop in between.
 */
export type Outbox = {
  /** Takes over the event of a change this instance committed. */
  enqueue(event: InvalidationEvent): void
  /** Some instance removed these events, because Redis no longer holds their keys under the prefix of this epoch. */
  onConfirmed(eventIds: readonly string[], epoch: string): void
  /** The rows are those of another database now: no event confirmed so far is removed there. */
  onOtherDatabase(): void
  close(): Promise<void>
}

type Dependencies = {
  readonly redisCache: Pick<RedisCache, 'invalidate' | 'epoch'>
  readonly pendingInvalidations: PendingInvalidations
  readonly store: EventStore
  readonly clock: Clock
  readonly log: Log
  readonly timing?: Partial<OutboxTiming> | undefined
}

export const createOutbox = ({ redisCache, pendingInvalidations, store, clock, log, timing }: Dependencies): Outbox => {
  const { flushMs, sweepMs, takeoverAfterMs } = { ...defaultTiming, ...timing }
  /** Ids of confirmed events whose rows are still there, by the epoch that confirmed them. */
  const confirmed = new Map<string, string[]>()
  let closed = false
  /** Counts databases: a confirmation that belongs to an earlier one is dropped. */
  let databaseEpoch = 0

  const confirm = (eventId: string, epoch: string) => {
    const eventIds = confirmed.get(epoch)
    if (eventIds === undefined) confirmed.set(epoch, [eventId])
    else eventIds.push(eventId)
  }

  /** The epoch under which the keys were deleted; undefined where that is uncertain, or where it ended meanwhile. */
  const deleteFromCache = async (keys: readonly FactKey[]): Promise<string | undefined> => {
    const { epoch } = redisCache
    return (await redisCache.invalidate(keys)) && redisCache.epoch === epoch ? epoch : undefined
  }

  const deleteAndConfirm = async ({ id, keys }: InvalidationEvent): Promise<void> => {
    if (!canBeDeletedByName(keys)) return
    const database = databaseEpoch
    const epoch = await deleteFromCache(keys)
    if (epoch !== undefined && databaseEpoch === database) confirm(id, epoch)
  }

  /** For an event whose row is gone, confirmed under another epoch or without our having received that. */
  const deleteAndRemove = async ({ id, keys }: InvalidationEvent): Promise<void> => {
    const database = databaseEpoch
    if (canBeDeletedByName(keys) && !(await redisCache.invalidate(keys))) return
    if (databaseEpoch === database) pendingInvalidations.remove([id])
  }

  const flush = async (): Promise<void> => {
    for (const [epoch, eventIds] of confirmed) {
      confirmed.delete(epoch)
      while (eventIds.length > 0) await store.remove(eventIds.splice(0, maxRemoved), epoch)
    }
  }

  /** Round robin, so that each event is reached however many are pending. */
  let cursor = pendingInvalidations.list()
  const nextBatch = (): ReceivedEvent[] => {
    const batch: ReceivedEvent[] = []
    while (batch.length < maxBatch) {
      const { value, done } = cursor.next()
      if (done) {
        cursor = pendingInvalidations.list()
        break
      }
      batch.push(value)
    }
    return batch
  }

  const reconcile = async (batch: readonly ReceivedEvent[]): Promise<void> => {
    const epoch = databaseEpoch
    const stored = await store.listPending(batch.map(({ id }) => id))
    if (databaseEpoch !== epoch) return
    const nowMs = clock.monotonic()
    for (const event of batch) {
      const ageMs = nowMs - event.receivedAtMs
      const isOutlived = ageMs > maxCachedAgeMs
      if (!stored.has(event.id)) {
        if (isOutlived) pendingInvalidations.remove([event.id])
        else await deleteAndRemove(event)
      } else if (isOutlived) confirm(event.id, anyEpoch)
      else if (ageMs >= takeoverAfterMs) await deleteAndConfirm(event)
    }
  }

  const sweep = async (): Promise<void> => {
    for (let batches = 0; batches < maxBatches; batches += 1) {
      const batch = nextBatch()
      if (batch.length > 0) await reconcile(batch)
      if (batch.length < maxBatch) return
      await yieldToEventLoop()
    }
  }

  const every = (ms: number, task: () => Promise<void>) => {
    let busy = false
    return setInterval(() => {
      if (busy) return
      busy = true
      task()
        .catch((error) => log.debug({ error }, 'a run of the outbox failed; the next one repeats it'))
        .finally(() => {
          busy = false
        })
    }, ms)
  }
  const timers = [every(flushMs, flush), every(sweepMs, sweep)]

  return {
    enqueue: (event) => {
      pendingInvalidations.add(event)
      if (!closed) void deleteAndConfirm(event)
    },
    onConfirmed: (eventIds, epoch) => {
      if (redisCache.epoch === epoch) return pendingInvalidations.remove(eventIds)
      for (const eventId of eventIds) {
        const event = pendingInvalidations.find(eventId)
        if (event !== undefined) void deleteAndRemove(event)
      }
    },
    onOtherDatabase: () => {
      databaseEpoch += 1
      confirmed.clear()
      cursor = pendingInvalidations.list()
    },
    close: async () => {
      closed = true
      for (const timer of timers) clearInterval(timer)
      await flush().catch(() => {})
    },
  }
}
