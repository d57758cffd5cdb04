import { type DecisionAudit, unrecorded } from '../audit/decisions.ts'
import { Fault } from '../fault.ts'
import type { Clock } from '../kit/clock.ts'
import type { Deadline } from '../kit/deadline.ts'
import type { MaybePromise } from '../kit/maybe-promise.ts'
import type { DecisionCounters } from './cache/decision-counters.ts'
import { createDecisionFacts, type DecisionFacts, type OnDecision, type Question } from './cache/decision-facts.ts'
import type { FactCache } from './cache/fact-cache.ts'
import type { PrincipalFacts } from './cache/gather.ts'
import { type Explanation, explainDecision, markDegraded, redactDecision } from './explanation.ts'
import { isSignedIn } from './permission-recheck.ts'
import { type Decision, decide } from './policy/decide.ts'
import type { MediaFact } from './policy/facts/media.ts'
import { factQuery, principalQueries, resourceQuery } from './policy/facts/queries.ts'
import { factIn } from './policy/facts/resource-walk.ts'
import type { Action, ResourceRef, Scope } from './policy/matrix.ts'
import type { Facts } from './policy/rules.ts'
import type { Caller, Claims, PresentedKey, Service } from './principal.ts'
import { createServiceChecks } from './service-key.ts'

/**
 * Decides whether a user may do an action on a resource, and authenticates people and services.
 *
 * Guarantee: default deny. The facts of one decision were all valid together at one moment between the call and its answer.
 *
 * Cost, for each call: no statement where memory has a lease and every fact, else at most one for any number of misses, and
 * more only when invalidations arrive in between. A route with `may` makes two calls: `authenticate` prefetches the facts
 * that `require` then finds in memory. Without a lease, or with the tier `l1` off, memory is not read, and each call loads
 * its facts again: two statements.
 *
 * Degrades: while Postgres is down for every instance and the lease has ended, callers are authenticated and `read` and
 * `download` decided on stale facts, which memory held while the lease lasted (see `StaleReads`). These decisions are marked.
 * Any other action is refused with `database.unavailable`, and so is every call whose facts are not all in memory.
 */
export type Access = {
  /**
   * The caller of verified claims; 401 where the session has ended or the account is not active. Where session or account
   * has to be loaded, the same statement prefetches the facts about `resources`; where both are in memory, `resources` are
   * ignored and a later decision loads the facts it lacks.
   */
  authenticate(claims: Claims, deadline: Deadline, resources?: readonly ResourceRef[]): MaybePromise<Caller>
  /** As `authenticate`, from memory alone: undefined where memory lacks session or account. */
  authenticateFromMemory(claims: Claims): Caller | undefined
  /**
   * The service of a key; 401 where the key is unknown, revoked or expired, 403 where it lacks the scope, or may not be used from
   * the address. `scope` undefined: no scope is needed. The address is read only for a key that has allowed networks.
   */
  authenticateService(
    key: PresentedKey,
    scope: Scope | undefined,
    deadline: Deadline,
    addressOf: () => string,
  ): MaybePromise<Service>
  /**
   * A user for whom a service acts, as a caller; 403 where there is no active account with this id, or its user could not sign in
   * because the e-mail address is not verified. The rights are those of the user. `resources` as for `authenticate`.
   */
  authenticateActing(
    service: Service,
    userId: string,
    deadline: Deadline,
    resources?: readonly ResourceRef[],
  ): MaybePromise<Caller>
  /** Plan and own limits of an account, for counting on its budgets. */
  limitsOf(userId: string, deadline: Deadline): MaybePromise<AccountOfBudgets | undefined>
  decide(userId: string, action: Action, ref: ResourceRef, deadline: Deadline): MaybePromise<Decision>
  /**
   * The decisions in the order of the questions, all on facts that were valid together. If the facts are stale, one question
   * about an action other than `read` and `download` refuses them all with `database.unavailable`. No promise where memory
   * has every fact of all of them: facts found before one that is missing are not used.
   */
  decideMany(questions: readonly Question[], deadline: Deadline): MaybePromise<Decision[]>
  /**
   * The decision, and the verdict, reason, tier and time of each of the ten layers. `allowed` and `reason` are redacted, the
   * layers are not: before a person sees them, call `redactExplanation`.
   */
  explain(userId: string, action: Action, ref: ResourceRef, deadline: Deadline): MaybePromise<Explanation>
  /**
   * Resolves if the caller may do the action. Otherwise throws 404 where the caller may not read the resource, as if the
   * resource did not exist, and 403 where the caller may read it.
   */
  require(caller: Caller, action: Action, ref: ResourceRef, deadline: Deadline): Promise<void>
  /** As `require`, for media; resolves to the facts of the media. */
  requireMedia(caller: Pick<Caller, 'userId'>, action: Action, id: string, deadline: Deadline): Promise<MediaFact>
  /**
   * The facts of those media on which the user may do the action, in the order of the ids; undefined for the others. At most one
   * statement for all of them.
   */
  findMedia(
    userId: string,
    action: Action,
    ids: readonly string[],
    deadline: Deadline,
  ): MaybePromise<(MediaFact | undefined)[]>
  /**
   * Resolves if the caller may derive a generation from this one. Otherwise throws 404 where the caller may not read the
   * generation, and `generation.derivatives_not_allowed` where the caller may read it.
   */
  requireDerivation(caller: Caller, generationId: string, deadline: Deadline): Promise<void>
}

/** Whose budgets are counted on. */
type AccountOfBudgets = Pick<Caller, 'userId' | 'plan' | 'limits'>

const toBudgets = (
  userId: string,
  found: { kind: 'absent' } | { kind: 'hit'; value: Facts['account'] },
): AccountOfBudgets | undefined =>
  found.kind === 'hit' && found.value !== undefined
    ? { userId, plan: found.value.plan, limits: found.value.limits }
    : undefined

const notFound = {
  project: 'project.not_found',
  generation: 'generation.not_found',
  media: 'media.not_found',
} as const

const allowedMedia = (all: readonly Facts[], action: Action): (MediaFact | undefined)[] =>
  all.map((facts) => (decide(facts, action).allowed ? facts.media : undefined))

/** Lets requests in or refuses them, and records that. */
const createRequirements = (
  decisionFacts: DecisionFacts,
  decisionAudit: DecisionAudit,
): Pick<Access, 'require' | 'requireMedia' | 'requireDerivation'> => {
  /** `action` decides only whether stale facts suffice. */
  const factsOf = (userId: string, action: Action, ref: ResourceRef, deadline: Deadline): MaybePromise<Facts> =>
    decisionFacts.peek(userId, ref) ?? decisionFacts.gather(userId, action, ref, deadline).then(({ facts }) => facts)

  const requireFacts = async (
    caller: Pick<Caller, 'userId'>,
    action: Action,
    ref: ResourceRef,
    deadline: Deadline,
  ): Promise<Facts> => {
    const { userId } = caller
    const facts = await factsOf(userId, action, ref, deadline)
    const decision = redactDecision(facts, action)
    decisionAudit.record(decision, caller, userId, action, ref, deadline)
    if (decision.allowed) return facts
    throw new Fault(decide(facts, 'read').allowed ? 'access.denied' : notFound[ref.type])
  }

  return {
    require: async (caller, action, ref, deadline) => {
      await requireFacts(caller, action, ref, deadline)
    },
    requireMedia: async (caller, action, id, deadline) => {
      const { media } = await requireFacts(caller, action, { type: 'media', id }, deadline)
      if (media === undefined) throw new Fault('media.not_found')
      return media
    },
    requireDerivation: async (caller, generationId, deadline) => {
      // Deriving creates, so stale facts do not suffice. It needs `read` on the parent, under the rule for `deriving`.
      const ref = { type: 'generation', id: generationId } as const
      const facts = await factsOf(caller.userId, 'create', ref, deadline)
      const decision = decide({ ...facts, deriving: true }, 'read')
      decisionAudit.record(decision, caller, caller.userId, 'read', ref, deadline)
      if (decision.allowed) return
      throw new Fault(decide(facts, 'read').allowed ? 'generation.derivatives_not_allowed' : 'generation.not_found')
    },
  }
}

export const createAccess = ({
  facts: factCache,
  clock,
  decisionCounters,
  verifiedOnly = false,
  onServiceKeyUsed = () => {},
  onDecision = () => {},
  decisionAudit = unrecorded,
}: {
  facts: FactCache
  clock: Clock
  decisionCounters: DecisionCounters
  /** Services act only for users whose e-mail address is verified, because others cannot sign in. */
  verifiedOnly?: boolean
  onServiceKeyUsed?: (keyId: string) => void
  onDecision?: OnDecision
  /** Records the decisions that let requests in or refuse them. */
  decisionAudit?: DecisionAudit
}): Access => {
  const decisionFacts = createDecisionFacts({ facts: factCache, decisionCounters, onDecision })
  const requireSignedIn = (claims: Claims, principal: PrincipalFacts): Caller => {
    const { userId, sessionId } = claims
    const { account, session } = principal
    if (account === undefined || session === undefined || !isSignedIn(claims, principal, clock.now())) {
      throw new Fault('identity.not_signed_in', { detail: { sessionId } })
    }
    const { role, plan, limits } = account
    const { authenticatedAtMs, origin } = session
    return { userId, sessionId, role, plan, limits, authenticatedAtMs, origin }
  }

  const authenticateFromMemory = (claims: Claims): Caller | undefined => {
    const known = factCache.peekPrincipal(claims.sessionId, claims.userId)
    return known === undefined ? undefined : requireSignedIn(claims, known)
  }

  const { requireService, requireActing } = createServiceChecks({ clock, onServiceKeyUsed })

  const loadCaller = async (
    claims: Claims,
    deadline: Deadline,
    resources: readonly ResourceRef[] = [],
  ): Promise<Caller> => {
    const { sessionId, userId } = claims
    const queries = [...principalQueries(sessionId, userId), ...resources.map((ref) => resourceQuery(ref, userId))]
    const gathered = await factCache.gather(queries, deadline)
    const caller = requireSignedIn(claims, gathered.principal(claims.sessionId, claims.userId))
    // The decisions on these resources find their facts in memory, and are counted for the tier they came from.
    decisionCounters.recordPrefetch(gathered.tier, resources.length)
    return gathered.stale ? { ...caller, stale: true } : caller
  }

  const loadActing = async (
    service: Service,
    userId: string,
    deadline: Deadline,
    resources: readonly ResourceRef[] = [],
  ): Promise<Caller> => {
    const about = resources.map((ref) => resourceQuery(ref, userId))
    const profile = verifiedOnly ? [factQuery('profile', userId)] : []
    const gathered = await factCache.gather([factQuery('account', userId), ...profile, ...about], deadline)
    const isVerified = !verifiedOnly || gathered.find('profile', userId)?.email_verified === true
    const caller = requireActing(service, userId, gathered.find('account', userId), isVerified)
    decisionCounters.recordPrefetch(gathered.tier, resources.length)
    return gathered.stale ? { ...caller, stale: true } : caller
  }

  return {
    authenticate: (claims, deadline, resources) =>
      authenticateFromMemory(claims) ?? loadCaller(claims, deadline, resources),
    authenticateFromMemory,
    ...createRequirements(decisionFacts, decisionAudit),
    authenticateService: (key, scope, deadline, addressOf) => {
      const known = factCache.peek('service_key', key.id)
      if (known.kind !== 'miss') return requireService(key, scope, factIn(known), addressOf)
      const gathering = factCache.gather([factQuery('service_key', key.id)], deadline)
      return gathering.then((found) => requireService(key, scope, found.find('service_key', key.id), addressOf))
    },
    authenticateActing: (service, userId, deadline, resources) => {
      const known = factCache.peek('account', userId)
      const profile = verifiedOnly ? factCache.peek('profile', userId) : undefined
      if (known.kind === 'miss' || profile?.kind === 'miss') return loadActing(service, userId, deadline, resources)
      const isVerified = profile === undefined || (profile.kind === 'hit' && profile.value.email_verified)
      return requireActing(service, userId, factIn(known), isVerified)
    },
    limitsOf: (userId, deadline) => {
      const known = factCache.peek('account', userId)
      if (known.kind !== 'miss') return toBudgets(userId, known)
      const gathering = factCache.gather([factQuery('account', userId)], deadline)
      return gathering.then((gathered) => toBudgets(userId, { kind: 'hit', value: gathered.find('account', userId) }))
    },
    decide: (userId, action, ref, deadline) => {
      const known = decisionFacts.peek(userId, ref)
      if (known !== undefined) return redactDecision(known, action)
      return decisionFacts
        .gather(userId, action, ref, deadline)
        .then(({ facts, gathered }) => markDegraded(redactDecision(facts, action), gathered))
    },
    decideMany: (questions, deadline) => {
      const known = decisionFacts.peekAll(questions)
      if (known !== undefined)
        return known.map((facts, at) => redactDecision(facts, (questions[at] as Question).action))
      return decisionFacts
        .gatherAll(questions, deadline)
        .then(({ facts: all, gathered }) =>
          all.map((facts, at) => markDegraded(redactDecision(facts, (questions[at] as Question).action), gathered)),
        )
    },
    explain: (userId, action, ref, deadline) => {
      const startedMs = clock.monotonic()
      const known = decisionFacts.peekWithAge(userId, ref)
      if (known !== undefined) {
        const { facts, ageMs } = known
        return explainDecision(clock, facts, action, { tier: 'l1', ageMs, startedMs })
      }
      return decisionFacts.gather(userId, action, ref, deadline).then(({ facts, gathered }) => {
        const { tier, ageMs } = gathered
        return markDegraded(explainDecision(clock, facts, action, { tier, ageMs, startedMs }), gathered)
      })
    },
    findMedia: (userId, action, ids, deadline) => {
      const questions = ids.map((id) => ({ userId, action, resource: { type: 'media', id } }) as const)
      const known = decisionFacts.peekAll(questions)
      if (known !== undefined) return allowedMedia(known, action)
      return decisionFacts.gatherAll(questions, deadline).then(({ facts }) => allowedMedia(facts, action))
    },
  }
}
