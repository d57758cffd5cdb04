import { Fault } from '../fault.ts'
import type { Clock } from '../kit/clock.ts'
import type { Deadline } from '../kit/deadline.ts'
import type { FactCache } from './cache/fact-cache.ts'
import type { PrincipalFacts } from './cache/gather.ts'
import { decide } from './policy/decide.ts'
import { principalQueries, resourceQuery, restrictionQueries } from './policy/facts/queries.ts'
import type { ResourceFacts } from './policy/facts/resource-walk.ts'
import type { Action, ResourceRef } from './policy/matrix.ts'
import { circumstancesIn } from './policy/modes.ts'
import { modeIn, type OwnMode, ownNormalMode } from './policy/restrictions.ts'
import type { Claims } from './principal.ts'

/** The permission that a streamed response needs for as long as it lasts: user, session, expiry of the token, action, resource. */
export type StreamPermission = Claims & {
  readonly expiresAtMs: number
  readonly action: Action
  readonly ref: ResourceRef
}

/** Whether the session of the claims goes on, whatever may be with the account. */
export const isLive = ({ userId }: Claims, session: PrincipalFacts['session'], nowMs: number): boolean =>
  session !== undefined && !session.ended && session.expiresAtMs > nowMs && session.userId === userId

export const isSignedIn = (
  claims: Claims,
  { session, account }: Pick<PrincipalFacts, 'session' | 'account'>,
  nowMs: number,
): boolean => account?.status === 'active' && isLive(claims, session, nowMs)

/**
 * Re-checks the permissions of streamed responses, which outlive the decision they were started with.
 *
 * Guarantee: whether a new request with the same token would be allowed now, by the same rules and facts; the reason is not
 * reported. Never decided on stale facts. Cost: `peek` reads only memory; `gather` sends no statement where memory has a
 * lease and every fact, else one for any number of permissions, and more only when invalidations arrive in between. The
 * decision counters count neither, because they count the decisions of requests.
 *
 * Degrades: fails closed. While Postgres is down, permissions whose facts are all in memory are decided until the lease
 * ends; after that `peek` returns undefined and `gather` rejects, and the caller has to end the streams.
 */
export type PermissionRecheck = {
  /** Undefined where memory has no lease or lacks a fact. */
  peek(permission: StreamPermission): boolean | undefined
  /** One verdict for each permission, in their order. Rejects with `database.unavailable` on stale facts. */
  gather(permissions: readonly StreamPermission[], deadline: Deadline): Promise<boolean[]>
}

export const createPermissionRecheck = ({
  facts,
  clock,
  ownMode = ownNormalMode,
}: {
  facts: Pick<FactCache, 'peekPrincipal' | 'peekResource' | 'gather'>
  clock: Clock
  ownMode?: OwnMode
}): PermissionRecheck => {
  const isAllowed = (permission: StreamPermission, principal: PrincipalFacts, resource: ResourceFacts): boolean => {
    const nowMs = clock.now()
    if (permission.expiresAtMs <= nowMs || !isSignedIn(permission, principal, nowMs)) return false
    const { userId, action } = permission
    const circumstances = circumstancesIn(modeIn(principal.mode, ownMode))
    return decide({ userId, account: principal.account, ...resource }, action, circumstances).allowed
  }
  return {
    peek: (permission) => {
      if (permission.expiresAtMs <= clock.now()) return false
      const principal = facts.peekPrincipal(permission.sessionId, permission.userId)
      const resource = principal && facts.peekResource(permission.ref, permission.userId)
      return principal && resource && isAllowed(permission, principal, resource)
    },
    gather: async (permissions, deadline) => {
      const ofEach = permissions.flatMap(({ sessionId, userId, ref }) => [
        ...principalQueries(sessionId, userId),
        resourceQuery(ref, userId),
      ])
      const queries = [...restrictionQueries, ...ofEach]
      const gathered = await facts.gather(queries, deadline)
      if (gathered.stale) throw new Fault('database.unavailable')
      return permissions.map((permission) => {
        const { sessionId, userId, ref } = permission
        return isAllowed(permission, gathered.principal(sessionId, userId), gathered.resource(ref, userId))
      })
    },
  }
}
