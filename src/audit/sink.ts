import { createHash } from 'node:crypto'
import type { AuditSource } from '../http/request-context.ts'
import type { Clock } from '../kit/clock.ts'
import type { Log } from '../platform/log.ts'
import { databaseFault } from '../platform/postgres.ts'
import type { EventAction } from './catalogue.ts'
import {
  type AuditActor,
  type AuditContext,
  type AuditEntry,
  type PreparedEvent,
  prepareEvent,
  taskContext,
} from './event.ts'
import type { CountedDecision, SinkStore } from './sink-store.ts'

/** How often queued events are written: with the time of a write, a killed process loses less than a second of them. */
export const sinkMs = 250
/** Different decisions, and events, that are held until the next write. */
const maxQueued = 20_000
/** Rows of one statement. */
const maxBatch = 2_000
/** Sampled allows that an instance records in a second, about. */
const allowsPerSecond = 10
const alarmMs = 60_000

export type DecisionSubject = {
  /** Who asked: the person, or the service. */
  readonly actor: AuditActor
  /** Whom the decision is about. */
  readonly userId: string
  readonly action: string
  readonly resource: { readonly type: string; readonly id: string }
}

export type SinkFigures = {
  readonly queued: number
  /** Events and decisions that were not recorded, because the queue was full. */
  readonly dropped: number
  readonly written: number
}

type Pending = { readonly content: CountedDecision['content']; count: number }

/** Who acted, as text that tells two of them apart. */
const nameOf = (actor: AuditActor): string =>
  typeof actor === 'string' ? actor : 'userId' in actor ? `${actor.userId} ${actor.sessionId ?? ''}` : actor.keyId

const contentOf = (
  { actor, userId, action, resource }: DecisionSubject,
  reason: string,
  context: AuditContext | undefined,
): CountedDecision['content'] => ({
  actor,
  user_id: userId,
  action,
  type: resource.type,
  id: resource.id,
  reason,
  request_id: context?.requestId ?? '',
  acting_key_id: context?.actingKeyId ?? null,
  address: (context?.request && context.audit?.addressOf(context.request)) ?? null,
  user_agent: context?.request?.headers.get('user-agent')?.slice(0, 256) ?? null,
})

const toDecisionEvent = (
  source: AuditSource,
  { content, count, minute }: CountedDecision & { readonly minute?: string },
): PreparedEvent => {
  const { actor, user_id, action, type, id, reason, request_id, acting_key_id, address, user_agent } = content
  return prepareEvent(
    {
      action: minute === undefined ? 'access.allowed' : 'access.denied',
      actor,
      target: { type: type as 'project' | 'generation' | 'media', id },
      userId: user_id,
      after: { action, reason, ...(minute !== undefined && { minute }) },
      ...(address !== null && { address }),
      ...(user_agent !== null && { userAgent: user_agent }),
      context: { ...taskContext(source, request_id), actingKeyId: acting_key_id ?? undefined },
    },
    count,
  )
}

/** Says how much was dropped. */
const toLoss = (source: AuditSource, dropped: number): PreparedEvent =>
  prepareEvent({
    action: 'audit.decisions_dropped',
    actor: 'system',
    target: { type: 'audit', id: null },
    after: { dropped },
    context: taskContext(source, 'audit'),
  })

/** Chooses about `perSecond` of what it is asked about, at random. */
const createSampler = (clock: Clock, perSecond: number, random: () => number) => {
  // One in `gap`, on average, is chosen. The gap follows the rate.
  let gap = 1
  let untilNext = 1
  let chosen = 0
  let sinceMs = clock.monotonic()
  return {
    get gap() {
      return gap
    },
    /** A decrement where it is not chosen. */
    samples: (): boolean => {
      untilNext -= 1
      if (untilNext > 0) return false
      // Random, so that periodic requests are neither missed nor counted twice; its mean is the gap.
      untilNext = 1 + Math.floor(random() * (2 * gap - 1))
      chosen += 1
      return true
    },
    adapt: (): void => {
      const seconds = (clock.monotonic() - sinceMs) / 1_000
      if (seconds < 1) return
      const asked = chosen * gap + Math.max(0, gap - untilNext)
      gap = Math.max(1, Math.ceil(asked / seconds / perSecond))
      untilNext = Math.min(untilNext, 2 * gap)
      chosen = 0
      sinceMs = clock.monotonic()
    },
  }
}

/**
 * Events off the path of requests: failed sign-ins and the like, and decisions on access.
 *
 * Guarantee: every denied decision is recorded; equal ones of a minute become one row with their count, over all instances. Of
 * allowed ones a sample is recorded, about ten a second for each instance. `decided` and `event` are synchronous and never throw.
 * What is queued is written every 250 ms, so a killed process loses less than a second of it.
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
}: {
  store: SinkStore
  source: AuditSource
  clock: Clock
  log: Log
  limits?: { readonly queued?: number; readonly allows?: number }
  /** A number from 0 to below 1. */
  random?: () => number
}) => {
  const denied = new Map<string, Pending>()
  let events: PreparedEvent[] = []
  let dropped = 0
  let droppedSince = 0
  let alarmAtMs = Number.NEGATIVE_INFINITY
  let written = 0
  let flushing: Promise<void> | undefined
  const sampler = createSampler(clock, allows, random)

  const drop = (count = 1) => {
    dropped += count
    droppedSince += count
  }

  const deny = (subject: DecisionSubject, reason: string, context: AuditContext | undefined) => {
    const { actor, userId, action, resource } = subject
    const name = `${nameOf(actor)} ${userId} ${action} ${resource.type} ${resource.id} ${reason}`
    const known = denied.get(name)
    if (known !== undefined) known.count += 1
    else if (denied.size + events.length >= most) drop()
    else denied.set(name, { content: contentOf(subject, reason, context), count: 1 })
  }

  const queue = (prepared: PreparedEvent) => {
    if (denied.size + events.length >= most) drop()
    else events.push(prepared)
  }

  const toEvent = (decision: CountedDecision & { readonly minute?: string }) => toDecisionEvent(source, decision)

  /** Gives back what could not be written, as far as there is room. */
  const requeue = (lost: readonly PreparedEvent[], lostDenied: ReadonlyMap<string, Pending>) => {
    const room = Math.max(0, most - denied.size - events.length)
    events = [...lost.slice(0, room), ...events]
    drop(Math.max(0, lost.length - room))
    for (const [name, pending] of lostDenied) {
      const known = denied.get(name)
      if (known !== undefined) known.count += pending.count
      else if (denied.size + events.length < most) denied.set(name, pending)
      else drop(pending.count)
    }
  }

  const raiseAlarm = () => {
    if (clock.monotonic() - alarmAtMs < alarmMs) return
    alarmAtMs = clock.monotonic()
    log.error(
      { event: 'audit.decisions_dropped', dropped },
      'audit events were not recorded, because more came than Postgres could take',
    )
  }

  const writeAll = async () => {
    sampler.adapt()
    while (events.length > 0 || denied.size > 0 || droppedSince > 0) {
      const lost = droppedSince
      droppedSince = 0
      if (lost > 0) raiseAlarm()
      const batch = events.splice(0, maxBatch)
      const counted = new Map([...denied].slice(0, maxBatch))
      for (const name of counted.keys()) denied.delete(name)
      try {
        await store.write(
          lost > 0 ? [toLoss(source, lost), ...batch] : batch,
          [...counted].map(([name, { content, count }]) => ({
            fingerprint: createHash('sha256').update(name).digest('hex'),
            content,
            count,
          })),
        )
        written += batch.length + counted.size
      } catch (error) {
        droppedSince += lost
        // What Postgres refuses for its content it would refuse for ever.
        if (databaseFault(error) === undefined) drop(batch.length + counted.size)
        else requeue(batch, counted)
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
      if (!isAllowed) deny(subject, reason, context)
      else queue(toEvent({ fingerprint: '', content: contentOf(subject, reason, context), count: sampler.gap }))
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
      while ((await store.closeMinutes(maxBatch, (rows) => rows.map(toEvent))) === maxBatch) {}
    },

    get figures(): SinkFigures {
      return { queued: denied.size + events.length, dropped, written }
    },
  }
}

export type AuditSink = ReturnType<typeof createAuditSink>
