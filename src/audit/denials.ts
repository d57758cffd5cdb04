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

/** One of the denials of an asker, and the next of those about the same resource. */
type Denied = {
  readonly action: string
  readonly type: string
  readonly reason: string
  readonly requestId: string
  count: number
  readonly next: Denied | undefined
}
/** What one asker was denied, by the id of the resource. */
type Counted = { readonly asker: Asker; readonly byResource: Map<string, Denied> }

/** The actor without what else the object knows, such as a plan. */
const onlyActor = (actor: AuditActor): AuditActor => {
  if (typeof actor === 'string') return actor
  if ('keyId' in actor) return { keyId: actor.keyId }
  const { userId, sessionId, service } = actor
  return { userId, sessionId, ...(service && { service: { keyId: service.keyId } }) }
}

export const askerOf = (actor: AuditActor, userId: string, context: AuditContext | undefined): Asker => ({
  actor: onlyActor(actor),
  user_id: userId,
  acting_key_id: context?.actingKeyId ?? null,
  address: context?.address ?? (context?.request && context.audit?.addressOf(context.request)) ?? null,
  user_agent: (context?.userAgent ?? context?.request?.headers.get('user-agent'))?.slice(0, 256) ?? null,
})

/** Who acted, as text that tells two of them apart; no new text for the usual ones. */
const nameOf = (actor: AuditActor): string => {
  if (typeof actor === 'string') return actor
  if ('keyId' in actor) return actor.keyId
  const { userId, sessionId, service } = actor
  // Where a service acts, the id of its key is in place of a session, which many users may share.
  return sessionId === undefined || service !== undefined ? `${userId} ${sessionId}` : sessionId
}

const find = (first: Denied | undefined, action: string, type: string, reason: string): Denied | undefined => {
  for (let each = first; each !== undefined; each = each.next)
    if (each.action === action && each.reason === reason && each.type === type) return each
  return undefined
}

const toDenials = (byResource: ReadonlyMap<string, Denied>): Denial[] => {
  const denials: Denial[] = []
  for (const [id, first] of byResource)
    for (let each: Denied | undefined = first; each !== undefined; each = each.next)
      denials.push([`${each.action} ${each.type} ${each.reason} ${id}`, each.count, each.requestId])
  return denials
}

/**
 * Counts denied decisions in memory, by who asked about whom. Costs two look-ups for each, by texts that the request has; what is
 * known of the client is read once for each asker.
 */
export const createDenialCounts = () => {
  /** People about themselves, which is what nearly all ask. */
  let own = new Map<string, Counted>()
  /** All others, by asker and by user. */
  let others = new Map<string, Map<string, Counted>>()
  let size = 0

  const ofAsker = (actor: AuditActor, userId: string): Counted | undefined => {
    const isOwn = typeof actor !== 'string' && 'userId' in actor && actor.userId === userId
    return isOwn ? own.get(nameOf(actor)) : others.get(nameOf(actor))?.get(userId)
  }

  const addAsker = (actor: AuditActor, userId: string, context: AuditContext | undefined): Counted => {
    const added: Counted = { asker: askerOf(actor, userId, context), byResource: new Map() }
    const name = nameOf(actor)
    if (typeof actor !== 'string' && 'userId' in actor && actor.userId === userId) own.set(name, added)
    else {
      const users = others.get(name) ?? new Map<string, Counted>()
      others.set(name, users.set(userId, added))
    }
    return added
  }

  return {
    /** Different ones. */
    get size() {
      return size
    },

    /** False: it is a new one, and there is no room for it. */
    add: (
      { actor, userId, action, resource: { type, id } }: DecisionSubject,
      reason: string,
      context: AuditContext | undefined,
      hasRoom: boolean,
    ): boolean => {
      const counted = ofAsker(actor, userId)
      const first = counted?.byResource.get(id)
      const known = find(first, action, type, reason)
      if (known !== undefined) {
        known.count += 1
        return true
      }
      if (!hasRoom) return false
      const { byResource } = counted ?? addAsker(actor, userId, context)
      byResource.set(id, { action, type, reason, requestId: context?.requestId ?? '', count: 1, next: first })
      size += 1
      return true
    },

    /** Takes all of them out. */
    take: (): readonly StoredDenials[] => {
      const taken: StoredDenials[] = []
      for (const { asker, byResource } of own.values()) taken.push({ ...asker, denials: toDenials(byResource) })
      for (const users of others.values())
        for (const { asker, byResource } of users.values()) taken.push({ ...asker, denials: toDenials(byResource) })
      own = new Map()
      others = new Map()
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

type Merged = {
  readonly asker: Asker
  readonly counts: Map<string, { count: number; readonly requestId: string }>
}

/** Adds up what was stored in one minute, over all instances. Lets the event loop run in between. */
export const mergeDenials = async (parts: readonly string[]): Promise<readonly StoredDenials[]> => {
  const merged = new Map<string, Merged>()
  let untilTurn = mergedAtOnce
  for (const part of parts) {
    for (const { denials, ...asker } of JSON.parse(part) as readonly StoredDenials[]) {
      const name = `${nameOf(asker.actor)} ${asker.user_id}`
      const of = merged.get(name) ?? { asker, counts: new Map() }
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
