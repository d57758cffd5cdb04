import { Fault } from '../fault.ts'
import type { Clock } from '../kit/clock.ts'
import type { Deadline } from '../kit/deadline.ts'
import type { FactCache, Principal, ResourceFacts, Tier } from './facts.ts'
import { type Decision, decide } from './layers.ts'
import type { Action, Facts, ResourceRef } from './model.ts'

/** Who asks: the person of a live session. */
export type Caller = {
  readonly userId: string
  readonly sessionId: string
  readonly role: 'user' | 'admin'
}

/** What needs no waiting when it is in memory: a promise that is already settled would cost more than the answer. */
export type Awaitable<T> = T | Promise<T>

/** What an access token claims, its signature checked, its session not yet. */
export type Claims = { readonly userId: string; readonly sessionId: string }

export type TracedLayer = {
  layer: number
  name: string
  verdict: 'allow' | 'deny' | 'abstain' | 'skipped'
  reason: string
  tier: Tier | null
  microseconds: number
}

export type Explanation = Decision & { layers: TracedLayer[] }

/**
 * The answer to "may this person do this to that thing?", and the doors that ask it.
 *
 * Promise: default deny; a decision holds for the facts as they were at some moment after it was asked; without a miss
 * no statement is sent, with any number of misses one is.
 */
export type Access = {
  /** The caller behind verified claims, or a 401 fault when session or account is no longer good. */
  enter(claims: Claims, deadline: Deadline, resources?: readonly ResourceRef[]): Awaitable<Caller>
  decide(userId: string, action: Action, ref: ResourceRef, deadline: Deadline): Awaitable<Decision>
  decideMany(
    questions: readonly { userId: string; action: Action; resource: ResourceRef }[],
    deadline: Deadline,
  ): Promise<Decision[]>
  /** All ten layers with verdict, reason, tier and time, whatever the answer. */
  explain(userId: string, action: Action, ref: ResourceRef, deadline: Deadline): Promise<Explanation>
  /** Passes, or throws: 404 where the caller may not even read, 403 where it may read but not do this. */
  require(caller: Caller, action: Action, ref: ResourceRef, deadline: Deadline): Promise<void>
}

const notFound = { project: 'project.not_found', generation: 'generation.not_found' } as const

const toFacts = (userId: string, account: Facts['account'], { project, generation }: ResourceFacts): Facts => ({
  userId,
  account,
  project,
  generation,
})

const hidden: Decision = Object.freeze({ allowed: false, reason: 'resource.not_visible' })

/**
 * What a caller is told. Where it may not even read, every denial of a thing reads like one of a thing that never was;
 * the state of the caller's own account is its own business.
 */
const answer = (facts: Facts, action: Action): Decision => {
  const decision = decide(facts, action)
  if (decision.allowed || decision.reason.startsWith('account.')) return decision
  return action !== 'read' && decide(facts, 'read').allowed ? decision : hidden
}

export const createAccess = ({ facts, clock }: { facts: FactCache; clock: Clock }): Access => {
  const admit = ({ userId, sessionId }: Claims, { session, account }: Principal): Caller => {
    const live =
      session !== undefined &&
      !session.ended &&
      session.expiresAtMs > clock.now() &&
      session.userId === userId &&
      account?.status === 'active'
    if (!live) throw new Fault('identity.not_signed_in', { detail: { sessionId } })
    return { userId, sessionId, role: account.role }
  }

  const gatherFacts = async (userId: string, ref: ResourceRef, deadline: Deadline): Promise<Facts> => {
    const gathered = await facts.gather({ accounts: [userId], resources: [ref] }, deadline)
    return toFacts(userId, gathered.account(userId), gathered.resource(ref))
  }

  const factsOf = (userId: string, ref: ResourceRef, deadline: Deadline): Awaitable<Facts> => {
    const account = facts.peekAccount(userId)
    const resource = account.kind === 'miss' ? undefined : facts.peekResource(ref)
    if (resource === undefined) return gatherFacts(userId, ref, deadline)
    return toFacts(userId, account.kind === 'hit' ? account.value : undefined, resource)
  }

  const gatherCaller = async (claims: Claims, deadline: Deadline, resources: readonly ResourceRef[] = []) => {
    const session = { id: claims.sessionId, userId: claims.userId }
    const gathered = await facts.gather({ session, resources }, deadline)
    return admit(claims, gathered.principal(claims.sessionId, claims.userId))
  }

  return {
    enter: (claims, deadline, resources) => {
      const known = facts.peekPrincipal(claims.sessionId, claims.userId)
      return known === undefined ? gatherCaller(claims, deadline, resources) : admit(claims, known)
    },
    decide: (userId, action, ref, deadline) => {
      const question = factsOf(userId, ref, deadline)
      return question instanceof Promise
        ? question.then((gathered) => answer(gathered, action))
        : answer(question, action)
    },
    decideMany: async (questions, deadline) => {
      const gathered = await facts.gather(
        { accounts: questions.map(({ userId }) => userId), resources: questions.map(({ resource }) => resource) },
        deadline,
      )
      return questions.map(({ userId, action, resource }) =>
        answer(toFacts(userId, gathered.account(userId), gathered.resource(resource)), action),
      )
    },
    explain: async (userId, action, ref, deadline) => {
      const startedMs = clock.monotonic()
      const gathered = await facts.gather({ accounts: [userId], resources: [ref] }, deadline)
      const fetchedMs = clock.monotonic()
      const question = toFacts(userId, gathered.account(userId), gathered.resource(ref))
      const trace: TracedLayer[] = []
      let sinceMs = fetchedMs
      decide(question, action, ({ layer, name }, { verdict, reason }) => {
        const nowMs = clock.monotonic()
        const spentMs = layer === 7 ? fetchedMs - startedMs : nowMs - sinceMs
        const tier = layer === 7 ? gathered.tier : null
        trace.push({ layer, name, verdict, reason, tier, microseconds: Math.round(spentMs * 1_000_000) / 1_000 })
        sinceMs = nowMs
      })
      return { ...answer(question, action), layers: trace }
    },
    require: async (caller, action, ref, deadline) => {
      const question = await factsOf(caller.userId, ref, deadline)
      if (decide(question, action).allowed) return
      throw new Fault(decide(question, 'read').allowed ? 'access.denied' : notFound[ref.type])
    },
  }
}
