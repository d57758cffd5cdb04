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
  /** The age of the oldest fact used: how long ago Postgres confirmed it. */
  age_ms: number | null
  microseconds: number
}

export type Explanation = Decision & { layers: TracedLayer[] }

/**
 * Decides whether a user may do an action on a resource, and authenticates those who ask.
 *
 * Guarantee: default deny. A decision reflects the facts at one moment after the question arrived. Cost: no statement
 * without a cache miss, one with any number of misses.
 */
export type Access = {
  /** The caller of verified claims; 401 where its session has ended or its account is not active. */
  authenticate(claims: Claims, deadline: Deadline, resources?: readonly ResourceRef[]): MaybePromise<Caller>
  /** The service of a key; 401 where the key is unknown, revoked or expired, 403 where it lacks the scope. */
  authenticateService(key: string, scope: Scope, deadline: Deadline): Promise<Service>
  decide(userId: string, action: Action, ref: ResourceRef, deadline: Deadline): MaybePromise<Decision>
  decideMany(
    questions: readonly { userId: string; action: Action; resource: ResourceRef }[],
    deadline: Deadline,
  ): Promise<Decision[]>
  /** The decision, and of each of the ten layers its verdict, reason, tier and time. */
  explain(userId: string, action: Action, ref: ResourceRef, deadline: Deadline): MaybePromise<Explanation>
  /** Resolves where the action is allowed; else 404 where the caller may not read the resource, 403 where it may. */
  require(caller: Caller, action: Action, ref: ResourceRef, deadline: Deadline): Promise<void>
  /** As `require`, for media; resolves to its facts. */
  requireMedia(caller: Pick<Caller, 'userId'>, action: Action, id: string, deadline: Deadline): Promise<MediaFact>
  /**
   * Resolves where the caller may derive a generation from this one; else 404 where it may not read it, and
   * `generation.derivatives_not_allowed` where it may.
   */
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

/** Stale facts suffice to read and to download; any other action needs Postgres. */
const refuseStale = ({ stale }: GatheredFacts, action: Action): void => {
  if (stale && !has(publicActions, action)) throw new Fault('database.unavailable')
}

const notVisible: Decision = Object.freeze({ allowed: false, reason: 'resource.not_visible' })

/**
 * The decision as a caller sees it. Where it may not read the resource, a denial reads as if the resource did not exist.
 * The state of the caller's own account is not hidden from it.
 */
const redactDecision = (facts: Facts, action: Action, decision = decide(facts, action)): Decision => {
  if (decision.allowed || decision.reason.startsWith('account.')) return decision
  return action !== 'read' && decide(facts, 'read').allowed ? decision : notVisible
}

/** The finding of each layer for an active account and a resource that does not exist. */
const notVisibleFindings = new Map(
  layers.map(({ layer, evaluate }) => [
    layer,
    evaluate({ userId: '', account: { status: 'active', role: 'user', plan: 'free' }, ...noResource }, 'read'),
  ]),
)

/**
 * The explanation that the user it is about may see. A resource it may not read is explained as one that does not exist:
 * with the same finding in every layer, and without tier, age and time, because a fact that another user's requests put
 * into a cache would give away that the resource exists.
 */
export const redact = (explanation: Explanation): Explanation =>
  explanation.reason !== notVisible.reason
    ? explanation
    : {
        ...explanation,
        layers: explanation.layers.map((traced) => ({
          ...traced,
          ...notVisibleFindings.get(traced.layer),
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
  /** Called synchronously for every decision, so it must be cheap. */
  onDecision?: (userId: string, ref: ResourceRef, facts: ResourceFacts) => void
}): Access => {
  const requireSignedIn = (claims: Claims, principal: PrincipalFacts): Caller => {
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

  /** Decides, timing each layer. The time of layer 7 is `gatheredInMs`, because its facts are what takes time. */
  const trace = (
    question: Facts,
    action: Action,
    { tier, ageMs }: Pick<GatheredFacts, 'tier' | 'ageMs'>,
    gatheredInMs: number,
  ): Explanation => {
    const traced: TracedLayer[] = []
    let sinceMs = clock.monotonic()
    const decision = decide(question, action, ({ layer, name }, { verdict, reason }) => {
      const nowMs = clock.monotonic()
      const isAccessLayer = layer === 7
      const microseconds = Math.round((isAccessLayer ? gatheredInMs : nowMs - sinceMs) * 1_000_000) / 1_000
      const source = isAccessLayer ? { tier, age_ms: Math.round(ageMs) } : { tier: null, age_ms: null }
      traced.push({ layer, name, verdict, reason, ...source, microseconds })
      sinceMs = nowMs
    })
    const { allowed, reason } = redactDecision(question, action, decision)
    return { allowed, reason, layers: traced }
  }

  const loadCaller = async (
    claims: Claims,
    deadline: Deadline,
    resources: readonly ResourceRef[] = [],
  ): Promise<Caller> => {
    const { sessionId, userId } = claims
    const queries = [...principalQueries(sessionId, userId), ...resources.map((ref) => resourceQuery(ref, userId))]
    const gathered = await facts.gather(queries, deadline)
    const caller = requireSignedIn(claims, gathered.principal(claims.sessionId, claims.userId))
    decisionCounters.attributePrefetch(gathered.tier, resources.length)
    return gathered.stale ? { ...caller, stale: true } : caller
  }

  return {
    authenticate: (claims, deadline, resources) => {
      const known = facts.peekPrincipal(claims.sessionId, claims.userId)
      return known === undefined ? loadCaller(claims, deadline, resources) : requireSignedIn(claims, known)
    },
    authenticateService: async (key, scope, deadline) => {
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
