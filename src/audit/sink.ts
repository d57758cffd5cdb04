import type { AuditSource } from '../http/request-context.ts'
import { yieldToEventLoop } from '../kit/async.ts'
import type { Clock } from '../kit/clock.ts'
import type { Log } from '../platform/log.ts'
import { databaseFault } from '../platform/postgres.ts'
import type { EventAction } from './catalogue.ts'
import {
  type Asker,
  askerOf,
  createDenialCounts,
  type DecisionSubject,
  mergeDenials,
  sizeOf,
  toEntries,
} from './denials.ts'
import { type AuditContext, type AuditEntry, type PreparedEvent, prepareEvent, taskContext } from './event.ts'
import { maxBatch, type StoredPart as Part, type SinkStore } from './sink-store.ts'

/** How often queued events are written: with the time of a write, a killed process loses less than a second of them. */
export const sinkMs = 400
/** Different decisions, and events, that are held until the next write. */
const maxQueued = 20_000
/** Different denied decisions of a minute that are added up at once. */
const mergedAtOnce = 20_000
/** Events made of denied decisions before the event loop gets a turn. */
const preparedAtOnce = 100
/** Sampled allows that an instance records in a second, about. */
const allowsPerSecond = 10
const alarmMs = 60_000

export type SinkFigures = {
  readonly queued: number
  /** Events and decisions that were not recorded, because the queue was full. */
  readonly dropped: number
  readonly written: number
}

/** `decisions`: how often these were made. */
type StoredPart = Part & { readonly decisions: number }

/** What an event says of who asked. */
const fromAsker = (source: AuditSource, { actor, address, user_agent, acting_key_id }: Asker, requestId: string) => ({
  actor,
  ...(address !== null && { address }),
  ...(user_agent !== null && { userAgent: user_agent }),
  context: { ...taskContext(source, requestId), actingKeyId: acting_key_id ?? undefined },
})

/** Says how much was dropped. */
const toLoss = (source: AuditSource, dropped: number): PreparedEvent =>
  prepareEvent({
    action: 'audit.decisions_dropped',
    actor: 'system',
    target: { type: 'audit', id: null },
    after: { dropped },
    context: taskContext(source, 'audit'),
  })

/**
 * Chooses about `perSecond` of what it is asked about, at random. Where more come suddenly it chooses half as often after each
 * `perSecond` of a second, so that a burst is a few hundred at most.
 */
const createSampler = (clock: Clock, perSecond: number, random: () => number) => {
  // One in `gap`, on average, is chosen. The gap follows the rate.
  let gap = 1
  /** How many the last one chosen stands for, on average. */
  let weight = 1
  let drawn = 1
  let untilNext = 1
  let chosen = 0
  /** Asked about in this second, up to the last one chosen. */
  let asked = 0
  let sinceMs = clock.monotonic()
  return {
    get weight() {
      return weight
    },
    /** A decrement where it is not chosen. */
    samples: (): boolean => {
      untilNext -= 1
      if (untilNext > 0) return false
      chosen += 1
      asked += drawn
      weight = gap
      if (chosen % perSecond === 0) gap *= 2
      // Random, so that periodic requests are neither missed nor counted twice; its mean is the gap.
      drawn = 1 + Math.floor(random() * (2 * gap - 1))
      untilNext = drawn
      return true
    },
    adapt: (): void => {
      const seconds = (clock.monotonic() - sinceMs) / 1_000
      if (seconds < 1) return
      gap = Math.max(1, Math.ceil((asked + drawn - untilNext) / seconds / perSecond))
      if (untilNext > 2 * gap) {
        drawn = 2 * gap
        untilNext = drawn
      }
      chosen = 0
      asked = 0
      sinceMs = clock.monotonic()
    },
  }
}

/** Says how much was dropped in all, once a minute while more is. */
const createAlarm = (clock: Clock, log: Log, onDropped: (dropped: number) => void) => {
  let alarmAtMs = Number.NEGATIVE_INFINITY
  return (dropped: number): void => {
    if (clock.monotonic() - alarmAtMs < alarmMs) return
    alarmAtMs = clock.monotonic()
    log.error(
      { event: 'audit.decisions_dropped', dropped },
      'audit events were not recorded, because more came than Postgres could take',
    )
    onDropped(dropped)
  }
}

/**
 * Events off the path of requests: failed sign-ins and the like, and decisions on access.
 *
 * Guarantee: every denied decision is recorded. Equal ones of a minute become one row with their count, over all instances; more
 * than five different ones of one asker share rows (see `toEntries`). In a minute with more than 20,000 different ones equal ones
 * may be counted in several rows. Of allowed ones a sample is recorded, about ten a second for each instance. `decided` and
 * `event` are synchronous and never throw. What is queued is written every 400 ms, so a killed process loses less than a second
 * of it.
 *
 * Degrades: while Postgres is down the queue holds up to 20,000 different events. Beyond that they are dropped, and counted: the
 * log says so each minute, and the next write records how many.
 */
export const createAuditSink = ({
  store,
  source,
  clock,
  log,
  limits: { queued: most = maxQueued, allows = allowsPerSecond } = {},
  random = Math.random,
  onDropped = () => {},
}: {
  store: SinkStore
  source: AuditSource
  clock: Clock
  log: Log
  limits?: { readonly queued?: number; readonly allows?: number }
  /** A number from 0 to below 1. */
  random?: () => number
  /** At most once a minute, with how many this process has dropped in all. */
  onDropped?: (dropped: number) => void
}) => {
  const denied = createDenialCounts()
  const raiseAlarm = createAlarm(clock, log, onDropped)
  /** Denials that are to be stored: those of one write, or several while Postgres is down. */
  const parts: StoredPart[] = []
  let events: PreparedEvent[] = []
  let dropped = 0
  let droppedSince = 0
  let written = 0
  let flushing: Promise<void> | undefined
  const sampler = createSampler(clock, allows, random)

  const drop = (count = 1) => {
    dropped += count
    droppedSince += count
  }

  const queued = (): number => parts.reduce((sum, { size }) => sum + size, denied.size + events.length)

  const queue = (prepared: PreparedEvent) => {
    if (queued() >= most) drop()
    else events.push(prepared)
  }

  const takeDenials = () => {
    const taken = denied.take()
    if (taken.length === 0) return
    const { decisions, different } = sizeOf(taken)
    parts.push({ content: JSON.stringify(taken), size: different, decisions })
  }

  const toAllowedEvent = (
    { actor, userId, action, resource: { type, id } }: DecisionSubject,
    reason: string,
    context: AuditContext | undefined,
    count: number,
  ): PreparedEvent => {
    const asker = askerOf(actor, userId, context)
    const target = { type: type as 'project' | 'generation' | 'media', id }
    const entry = { action: 'access.allowed', target, userId, after: { action, reason } } as const
    return prepareEvent({ ...entry, ...fromAsker(source, asker, context?.requestId ?? '') }, count)
  }

  const toDeniedEvents = async (parts: readonly string[], minute: string): Promise<readonly PreparedEvent[]> => {
    const prepared: PreparedEvent[] = []
    for (const stored of await mergeDenials(parts)) {
      for (const { count, requestId, ...entry } of toEntries(stored, minute)) {
        prepared.push(prepareEvent({ ...entry, ...fromAsker(source, stored, requestId) }, count))
        if (prepared.length % preparedAtOnce === 0) await yieldToEventLoop()
      }
    }
    return prepared
  }

  /** Gives back what could not be written, as far as there is room. */
  const requeue = (lost: readonly PreparedEvent[], lostDenials: StoredPart | undefined) => {
    const room = Math.max(0, most - queued())
    events = [...lost.slice(0, room), ...events]
    drop(Math.max(0, lost.length - room))
    if (lostDenials === undefined) return
    if (queued() + lostDenials.size <= most) parts.unshift(lostDenials)
    else drop(lostDenials.decisions)
  }

  const writeAll = async () => {
    sampler.adapt()
    takeDenials()
    let lost = droppedSince
    droppedSince = 0
    if (lost > 0) raiseAlarm(dropped)
    // What comes meanwhile is for the next run.
    for (let left = events.length; left > 0 || parts.length > 0 || lost > 0; left -= maxBatch) {
      const batch = events.splice(0, Math.max(0, Math.min(left, maxBatch)))
      const part = parts.shift()
      try {
        await store.write(lost > 0 ? [toLoss(source, lost), ...batch] : batch, part)
        written += batch.length + (part?.size ?? 0)
        lost = 0
      } catch (error) {
        droppedSince += lost
        // What Postgres refuses for its content it would refuse for ever.
        if (databaseFault(error) === undefined) drop(batch.length + (part?.decisions ?? 0))
        else requeue(batch, part)
        throw error
      }
    }
  }

  return {
    /** Whether the next allowed decision is to be recorded. */
    samples: sampler.samples,

    /** Records a denied decision, or an allowed one that `samples` chose. */
    decided: (
      isAllowed: boolean,
      reason: string,
      subject: DecisionSubject,
      context: AuditContext | undefined,
    ): void => {
      if (isAllowed) queue(toAllowedEvent(subject, reason, context, sampler.weight))
      else if (!denied.add(subject, reason, context, queued() < most)) drop()
    },

    /** Records an event that changes nothing. */
    event: (entry: AuditEntry<EventAction>): void => queue(prepareEvent(entry)),

    /** Writes what is queued. Concurrent calls share one run. */
    flush: (): Promise<void> => {
      flushing ??= writeAll().finally(() => {
        flushing = undefined
      })
      return flushing
    },

    /** Makes events of the counts of minutes that are over. */
    closeMinutes: async (): Promise<void> => {
      while ((await store.closeMinute(mergedAtOnce, toDeniedEvents)) > 0) {}
    },

    get figures(): SinkFigures {
      return { queued: queued(), dropped, written }
    },
  }
}

export type AuditSink = ReturnType<typeof createAuditSink>
