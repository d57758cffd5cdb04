import { Fault } from '../fault.ts'
import type { Clock } from '../kit/clock.ts'
import type { Deadline } from '../kit/deadline.ts'
import { type MaybePromise, mapMaybePromise } from '../kit/maybe-promise.ts'
import type { DecisionCounters } from './cache/decision-counters.ts'
import type { FactCache } from './cache/fact-cache.ts'
import type { GatheredFacts, PrincipalFacts } from './cache/gather.ts'
import type { Tier } from './cache/tiered-loader.ts'
import { isSignedIn } from './permission-recheck.ts'
import { type Decision, decide, layers } from './policy/decide.ts'
import type { MediaFact } from './policy/facts/media.ts'
import { factQuery, principalQueries, resourceQuery } from './policy/facts/queries.ts'
import { noResource, type ResourceFacts } from './policy/facts/resource-walk.ts'
import { type Action, has, publicActions, type ResourceRef, type Scope } from './policy/matrix.ts'
import type { Facts } from './policy/rules.ts'
import type { Caller, Claims, Service } from './principal.ts'
import { isSameHash, readServiceKey } from './service-key.ts'

export type TracedLayer = {
  layer: number
  name: string
  verdict: 'allow' | 'deny' | 'abstain' | 'skipped'
  reason: string
  tier: Tier | null
  /** How long ago the oldest fact that was used was true. */
  age_ms: number | null
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
  enter(claims: Claims, deadline: Deadline, resources?: readonly ResourceRef[]): MaybePromise<Caller>
  /** The service behind a key, or a fault: 401 when the key is not good, 403 when it lacks the scope. */
  enterService(key: string, scope: Scope, deadline: Deadline): Promise<Service>
  decide(userId: string, action: Action, ref: ResourceRef, deadline: Deadline): MaybePromise<Decision>
  decideMany(
    questions: readonly { userId: string; action: Action; resource: ResourceRef }[],
    deadline: Deadline,
  ): Promise<Decision[]>
  /** All ten layers with verdict, reason, tier and time, whatever the answer. */
  explain(userId: string, action: Action, ref: ResourceRef, deadline: Deadline): MaybePromise<Explanation>
  /** Passes, or throws: 404 where the caller may not even read, 403 where it may read but not do this. */
  require(caller: Caller, action: Action, ref: ResourceRef, deadline: Deadline): Promise<void>
  /** As `require` for media; returns what is known of it. */
  requireMedia(caller: Pick<Caller, 'userId'>, action: Action, id: string, deadline: Deadline): Promise<MediaFact>
  /** Passes where the caller may make a child of a generation, or throws as `require` does, with a code of its own. */
  requireDerivation(caller: Caller, generationId: string, deadline: Deadline): Promise<void>
}

const notFound = {
  project: 'project.not_found',
  generation: 'generation.not_found',
  media: 'media.not_found',
} as const

const toFacts = (userId: string, account: Facts['account'], resource: ResourceFacts): Facts => ({
  userId,
  account,
  ...resource,
})

/** By what is merely remembered things may be looked at, and nothing else. */
const refuseStale = ({ stale }: GatheredFacts, action: Action): void => {
  if (stale && !has(publicActions, action)) throw new Fault('database.unavailable')
}

const notVisible: Decision = Object.freeze({ allowed: false, reason: 'resource.not_visible' })

/**
 * What a caller is told. Where it may not even read, every denial of a thing reads like one of a thing that never was;
 * the state of the caller's own account is its own business.
 */
const redactDecision = (facts: Facts, action: Action, decision = decide(facts, action)): Decision => {
  if (decision.allowed || decision.reason.startsWith('account.')) return decision
  return action !== 'read' && decide(facts, 'read').allowed ? decision : notVisible
}

/** What each layer says of a thing that never was, to somebody whose account is active. */
const notVisibleFindings = new Map(
  layers.map(({ layer, evaluate }) => [
    layer,
    evaluate({ userId: '', account: { status: 'active', role: 'user', plan: 'free' }, ...noResource }, 'read'),
  ]),
)

/**
 * An explanation for the person it is about. Of a thing it may not see, it is told what it would be told of one that never
 * was: no layer says how far the thing is, and none from where and how fast that was known, since things that never were
 * are not kept at hand like those that somebody else works with.
 */
export const redact = (explanation: Explanation): Explanation =>
  explanation.reason !== notVisible.reason
    ? explanation
    : {
        ...explanation,
        layers: explanation.layers.map((line) => ({
          ...line,
          ...notVisibleFindings.get(line.layer),
          tier: null,
          age_ms: null,
          microseconds: 0,
        })),
      }

export const createAccess = ({
  facts,
  clock,
  decisionCounters,
  onServiceKeyUsed = () => {},
  onDecision = () => {},
}: {
  facts: FactCache
  clock: Clock
  decisionCounters: DecisionCounters
  onServiceKeyUsed?: (keyId: string) => void
  /** Told of every question that is answered; must cost next to nothing. */
  onDecision?: (userId: string, ref: ResourceRef, facts: ResourceFacts) => void
}): Access => {
  const admit = (claims: Claims, principal: PrincipalFacts): Caller => {
    const { userId, sessionId } = claims
    const { account } = principal
    if (account === undefined || !isSignedIn(claims, principal, clock.now())) {
      throw new Fault('identity.not_signed_in', { detail: { sessionId } })
    }
    return { userId, sessionId, role: account.role }
  }

  const gatherFacts = async (userId: string, action: Action, ref: ResourceRef, deadline: Deadline) => {
    const gathered = await facts.gather([factQuery('account', userId), resourceQuery(ref, userId)], deadline)
    refuseStale(gathered, action)
    const resource = gathered.resource(ref, userId)
    const question = toFacts(userId, gathered.find('account', userId), resource)
    decisionCounters.count(gathered.tier)
    onDecision(userId, ref, resource)
    return { question, gathered }
  }

  const peekFacts = (userId: string, ref: ResourceRef): Facts | undefined => {
    const account = facts.peek('account', userId)
    const resource = account.kind === 'miss' ? undefined : facts.peekResource(ref, userId)
    if (resource === undefined) return undefined
    decisionCounters.count('l1')
    onDecision(userId, ref, resource)
    return toFacts(userId, account.kind === 'hit' ? account.value : undefined, resource)
  }

  const factsOf = (userId: string, action: Action, ref: ResourceRef, deadline: Deadline): MaybePromise<Facts> =>
    peekFacts(userId, ref) ?? gatherFacts(userId, action, ref, deadline).then(({ question }) => question)

  const requireFacts = async (userId: string, action: Action, ref: ResourceRef, deadline: Deadline): Promise<Facts> => {
    const question = await factsOf(userId, action, ref, deadline)
    if (decide(question, action).allowed) return question
    throw new Fault(decide(question, 'read').allowed ? 'access.denied' : notFound[ref.type])
  }

  /** What each layer says, and how long it takes to say it; the facts took `fetchedInMs`. */
  const trace = (
    question: Facts,
    action: Action,
    { tier, ageMs }: Pick<GatheredFacts, 'tier' | 'ageMs'>,
    fetchedInMs: number,
  ): Explanation => {
    const lines: TracedLayer[] = []
    let sinceMs = clock.monotonic()
    const decision = decide(question, action, ({ layer, name }, { verdict, reason }) => {
      const nowMs = clock.monotonic()
      const fetching = layer === 7
      const microseconds = Math.round((fetching ? fetchedInMs : nowMs - sinceMs) * 1_000_000) / 1_000
      const source = fetching ? { tier, age_ms: Math.round(ageMs) } : { tier: null, age_ms: null }
      lines.push({ layer, name, verdict, reason, ...source, microseconds })
      sinceMs = nowMs
    })
    const { allowed, reason } = redactDecision(question, action, decision)
    return { allowed, reason, layers: lines }
  }

  const gatherCaller = async (
    claims: Claims,
    deadline: Deadline,
    resources: readonly ResourceRef[] = [],
  ): Promise<Caller> => {
    const { sessionId, userId } = claims
    const queries = [...principalQueries(sessionId, userId), ...resources.map((ref) => resourceQuery(ref, userId))]
    const gathered = await facts.gather(queries, deadline)
    const caller = admit(claims, gathered.principal(claims.sessionId, claims.userId))
    decisionCounters.attributePrefetch(gathered.tier, resources.length)
    return gathered.stale ? { ...caller, stale: true } : caller
  }

  return {
    enter: (claims, deadline, resources) => {
      const known = facts.peekPrincipal(claims.sessionId, claims.userId)
      return known === undefined ? gatherCaller(claims, deadline, resources) : admit(claims, known)
    },
    enterService: async (key, scope, deadline) => {
      const presented = readServiceKey(key)
      if (presented === undefined) throw new Fault('identity.not_signed_in')
      const { id, secretHash } = presented
      const known = facts.peek('service_key', id)
      const fact =
        known.kind === 'miss'
          ? (await facts.gather([factQuery('service_key', id)], deadline)).find('service_key', id)
          : known.kind === 'hit'
            ? known.value
            : undefined
      const live = fact?.live === true && (fact.expiresAtMs === null || fact.expiresAtMs > clock.now())
      if (!live || !isSameHash(secretHash, fact.secretHash)) throw new Fault('identity.not_signed_in')
      if (!fact.scopes.includes(scope)) throw new Fault('service_key.scope_missing', { detail: { keyId: id, scope } })
      onServiceKeyUsed(id)
      return { keyId: id }
    },
    decide: (userId, action, ref, deadline) => {
      return mapMaybePromise(factsOf(userId, action, ref, deadline), (question) => redactDecision(question, action))
    },
    decideMany: async (questions, deadline) => {
      const gathered = await facts.gather(
        questions.flatMap(({ userId, resource }) => [factQuery('account', userId), resourceQuery(resource, userId)]),
        deadline,
      )
      for (const { action } of questions) refuseStale(gathered, action)
      decisionCounters.count(gathered.tier, questions.length)
      return questions.map(({ userId, action, resource: ref }) => {
        const resource = gathered.resource(ref, userId)
        onDecision(userId, ref, resource)
        return redactDecision(toFacts(userId, gathered.find('account', userId), resource), action)
      })
    },
    explain: (userId, action, ref, deadline) => {
      const startedMs = clock.monotonic()
      const known = peekFacts(userId, ref)
      if (known !== undefined) {
        const source = { tier: 'l1', ageMs: facts.ageMs(ref, userId) } as const
        return trace(known, action, source, clock.monotonic() - startedMs)
      }
      return gatherFacts(userId, action, ref, deadline).then(({ question, gathered }) =>
        trace(question, action, gathered, clock.monotonic() - startedMs),
      )
    },
    require: async (caller, action, ref, deadline) => {
      await requireFacts(caller.userId, action, ref, deadline)
    },
    requireMedia: async (caller, action, id, deadline) => {
      const { media } = await requireFacts(caller.userId, action, { type: 'media', id }, deadline)
      if (media === undefined) throw new Fault('media.not_found')
      return media
    },
    requireDerivation: async (caller, generationId, deadline) => {
      const question = await factsOf(caller.userId, 'create', { type: 'generation', id: generationId }, deadline)
      if (decide({ ...question, deriving: true }, 'read').allowed) return
      throw new Fault(decide(question, 'read').allowed ? 'generation.derivatives_not_allowed' : 'generation.not_found')
    },
  }
}
