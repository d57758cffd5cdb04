import { yieldToEventLoop } from '../kit/async.ts'
import type { AuditActor, AuditContext, AuditEntry } from './event.ts'

/** Of a person or a service that asked in one minute, this many different denials have an event each. */
const singleEvents = 5
/** Further ones share events, this many in each. */
const denialsPerEvent = 40
/** Merged before the event loop gets a turn. */
const mergedAtOnce = 2_000

export type DecisionSubject = {
  /** Who asked: the person, or the service. */
  readonly actor: AuditActor
  /** Whom the decision is about. */
  readonly userId: string
  readonly action: string
  readonly resource: { readonly type: string; readonly id: string }
}

/** Who asked about whom, from where. */
export type Asker = {
  readonly actor: AuditActor
  readonly user_id: string
  readonly acting_key_id: string | null
  readonly address: string | null
  readonly user_agent: string | null
}

/** Action, type and reason, which have no blanks, and the id; how often; the request that asked first. */
type Denial = readonly [decision: string, count: number, requestId: string]
/** The denials of one asker, as they are stored until their minute is over. */
export type StoredDenials = Asker & { readonly denials: readonly Denial[] }

type Count = { count: number; readonly requestId: string }
type Counted = { readonly asker: Asker; readonly counts: Map<string, Count> }

/** Who acted, as text that tells two of them apart. */
const nameOf = (actor: AuditActor): string =>
  typeof actor === 'string' ? actor : 'userId' in actor ? `${actor.userId} ${actor.sessionId ?? ''}` : actor.keyId

export const askerOf = (actor: AuditActor, userId: string, context: AuditContext | undefined): Asker => ({
  actor,
  user_id: userId,
  acting_key_id: context?.actingKeyId ?? null,
  address: (context?.request && context.audit?.addressOf(context.request)) ?? null,
  user_agent: context?.request?.headers.get('user-agent')?.slice(0, 256) ?? null,
})

/**
 * Counts denied decisions in memory, by who asked about whom. Costs two look-ups for each; what is known of the client is read
 * once for each asker.
 */
export const createDenialCounts = () => {
  let counted = new Map<string, Counted>()
  let size = 0
  return {
    /** Different ones. */
    get size() {
      return size
    },

    /** False: it is a new one, and there is no room for it. */
    add: (
      { actor, userId, action, resource }: DecisionSubject,
      reason: string,
      context: AuditContext | undefined,
      hasRoom: boolean,
    ): boolean => {
      const name = `${nameOf(actor)} ${userId}`
      const decision = `${action} ${resource.type} ${reason} ${resource.id}`
      let of = counted.get(name)
      const known = of?.counts.get(decision)
      if (known !== undefined) {
        known.count += 1
        return true
      }
      if (!hasRoom) return false
      if (of === undefined) {
        of = { asker: askerOf(actor, userId, context), counts: new Map() }
        counted.set(name, of)
      }
      of.counts.set(decision, { count: 1, requestId: context?.requestId ?? '' })
      size += 1
      return true
    },

    /** Takes all of them out. */
    take: (): readonly StoredDenials[] => {
      const taken = [...counted.values()].map(({ asker, counts }) => ({
        ...asker,
        denials: [...counts].map(([decision, { count, requestId }]): Denial => [decision, count, requestId]),
      }))
      counted = new Map()
      size = 0
      return taken
    },
  }
}

/** How many decisions were denied, and how many different ones these are. */
export const sizeOf = (
  stored: readonly StoredDenials[],
): { readonly decisions: number; readonly different: number } => {
  let decisions = 0
  let different = 0
  for (const { denials } of stored) {
    different += denials.length
    for (const [, count] of denials) decisions += count
  }
  return { decisions, different }
}

/** Adds up what was stored in one minute, over all instances. Lets the event loop run in between. */
export const mergeDenials = async (parts: readonly string[]): Promise<readonly StoredDenials[]> => {
  const merged = new Map<string, Counted>()
  let untilTurn = mergedAtOnce
  for (const part of parts) {
    for (const { denials, ...asker } of JSON.parse(part) as readonly StoredDenials[]) {
      const name = `${nameOf(asker.actor)} ${asker.user_id}`
      const of = merged.get(name) ?? { asker, counts: new Map<string, Count>() }
      merged.set(name, of)
      for (const [decision, count, requestId] of denials) {
        const known = of.counts.get(decision)
        if (known === undefined) of.counts.set(decision, { count, requestId })
        else known.count += count
      }
      untilTurn -= denials.length
    }
    if (untilTurn > 0) continue
    untilTurn = mergedAtOnce
    await yieldToEventLoop()
  }
  return [...merged.values()].map(({ asker, counts }) => ({
    ...asker,
    denials: [...counts].map(([decision, { count, requestId }]): Denial => [decision, count, requestId]),
  }))
}

const parse = (decision: string) => {
  const [action = '', type = '', reason = '', ...id] = decision.split(' ')
  return { action, type, reason, id: id.join(' ') }
}

type DenialEntry = Omit<AuditEntry<'access.denied'>, 'context' | 'actor'> & {
  readonly count: number
  readonly requestId: string
}

/**
 * What the audit log says of the denials of one asker in one minute. Up to five different ones have an entry each, about the
 * resource. An asker with more, as one that tries ids, has entries about the user, each with up to 40 denials.
 */
export const toEntries = ({ user_id, denials }: StoredDenials, minute: string): readonly DenialEntry[] => {
  if (denials.length <= singleEvents) {
    return denials.map(([decision, count, requestId]) => {
      const { action, type, reason, id } = parse(decision)
      const target = { type: type as 'project' | 'generation' | 'media', id }
      return { action: 'access.denied', target, userId: user_id, after: { action, reason, minute }, count, requestId }
    })
  }
  const entries: DenialEntry[] = []
  for (let at = 0; at < denials.length; at += denialsPerEvent) {
    const shared = denials.slice(at, at + denialsPerEvent)
    entries.push({
      action: 'access.denied',
      target: { type: 'user', id: user_id },
      after: { minute, denials: shared.map(([decision, count]) => ({ ...parse(decision), count })) },
      count: shared.reduce((sum, [, count]) => sum + count, 0),
      requestId: shared[0]?.[2] ?? '',
    })
  }
  return entries
}
