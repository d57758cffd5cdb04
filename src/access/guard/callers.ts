import { Fault } from '../../fault.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Deadline } from '../../kit/deadline.ts'
import type { MaybePromise } from '../../kit/maybe-promise.ts'
import type { DecisionCounters } from '../cache/decision-counters.ts'
import type { FactCache } from '../cache/fact-cache.ts'
import type { PrincipalFacts } from '../cache/gather.ts'
import { isLive, isSignedIn } from '../permission-recheck.ts'
import { factQuery, principalQueries, resourceQuery, restrictionQueries } from '../policy/facts/queries.ts'
import type { ResourceRef, Scope } from '../policy/matrix.ts'
import { type OwnMode, type Restrictions, restrictionsIn } from '../policy/restrictions.ts'
import type { Facts } from '../policy/rules.ts'
import type { Caller, Claims, PresentedKey, Service } from '../principal.ts'
import { createServiceChecks } from '../service-key.ts'

/** Whose budgets are counted on. */
export type AccountOfBudgets = Pick<Caller, 'userId' | 'plan' | 'limits'>

const toBudgets = (
  userId: string,
  found: { kind: 'absent' } | { kind: 'hit'; value: Facts['account'] },
): AccountOfBudgets | undefined =>
  found.kind === 'hit' && found.value !== undefined
    ? { userId, plan: found.value.plan, limits: found.value.limits }
    : undefined

/** Who sends requests, and what restricts them: the part of `Access` that decides about no resource. */
export type Callers = {
  /**
   * The caller of verified claims; 401 where the session has ended or the account is not active, 403 where the account is
   * blocked. Where session, account or restrictions have to be loaded, the same statement prefetches the facts about
   * `resources`; where all are in memory, `resources` are ignored and a later decision loads the facts it lacks. The restrictions
   * are returned and not applied: `Barrier` applies them to the route of the request.
   */
  authenticate(claims: Claims, deadline: Deadline, resources?: readonly ResourceRef[]): MaybePromise<Caller>
  /** As `authenticate`, from memory alone: undefined where memory lacks session, account or restrictions. */
  authenticateFromMemory(claims: Claims): Caller | undefined
  /**
   * The service of a key; 401 where the key is unknown, revoked or expired, 403 where it is blocked, lacks the scope, or may not be
   * used from the address. `scope` undefined: no scope is needed. The address is read only for a key that has allowed networks.
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
  /** What restricts requests now, for those without a caller; undefined where nothing does. */
  restrictions(deadline: Deadline): MaybePromise<Restrictions | undefined>
  /** As `restrictions`, from memory alone: `unknown` where memory lacks them. */
  restrictionsFromMemory(): Restrictions | undefined | 'unknown'
}

export const createCallers = ({
  facts: factCache,
  clock,
  decisionCounters,
  ownMode,
  verifiedOnly,
  onServiceKeyUsed,
}: {
  facts: FactCache
  clock: Clock
  decisionCounters: DecisionCounters
  ownMode: OwnMode
  verifiedOnly: boolean
  onServiceKeyUsed: (keyId: string) => void
}): Callers => {
  const requireSignedIn = (claims: Claims, principal: PrincipalFacts): Caller => {
    const { userId, sessionId } = claims
    const { account, session } = principal
    const nowMs = clock.now()
    if (account === undefined || session === undefined || !isSignedIn(claims, principal, nowMs)) {
      const isBlocked = account?.status === 'blocked' && isLive(claims, session, nowMs)
      throw new Fault(isBlocked ? 'access.blocked' : 'identity.not_signed_in', { detail: { sessionId } })
    }
    const { role, plan, limits } = account
    const { authenticatedAtMs, origin } = session
    return {
      userId,
      sessionId,
      role,
      plan,
      limits,
      authenticatedAtMs,
      origin,
      restrictions: restrictionsIn(principal, ownMode),
    }
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
    const about = resources.map((ref) => resourceQuery(ref, userId))
    const queries = [...restrictionQueries, ...principalQueries(sessionId, userId), ...about]
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
    authenticateService: (key, scope, deadline, addressOf) => {
      const known = factCache.peekService(key.id)
      if (known !== undefined) return requireService(key, scope, known.key, addressOf, restrictionsIn(known, ownMode))
      const gathering = factCache.gather([...restrictionQueries, factQuery('service_key', key.id)], deadline)
      return gathering.then((gathered) => {
        const restrictions = restrictionsIn(gathered.restrictions(), ownMode)
        return requireService(key, scope, gathered.find('service_key', key.id), addressOf, restrictions)
      })
    },
    authenticateActing: (service, userId, deadline, resources) => {
      const known = factCache.peek('account', userId)
      const profile = verifiedOnly ? factCache.peek('profile', userId) : undefined
      if (known.kind === 'miss' || profile?.kind === 'miss') return loadActing(service, userId, deadline, resources)
      const isVerified = profile === undefined || (profile.kind === 'hit' && profile.value.email_verified)
      return requireActing(service, userId, known.kind === 'hit' ? known.value : undefined, isVerified)
    },
    limitsOf: (userId, deadline) => {
      const known = factCache.peek('account', userId)
      if (known.kind !== 'miss') return toBudgets(userId, known)
      const gathering = factCache.gather([factQuery('account', userId)], deadline)
      return gathering.then((gathered) => toBudgets(userId, { kind: 'hit', value: gathered.find('account', userId) }))
    },
    restrictions: (deadline) => {
      const known = factCache.peekRestrictions()
      if (known !== undefined) return restrictionsIn(known, ownMode)
      return factCache
        .gather(restrictionQueries, deadline)
        .then((gathered) => restrictionsIn(gathered.restrictions(), ownMode))
    },
    restrictionsFromMemory: () => {
      const known = factCache.peekRestrictions()
      return known === undefined ? 'unknown' : restrictionsIn(known, ownMode)
    },
  }
}
