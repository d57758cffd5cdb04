import type { Clock } from '../kit/clock.ts'
import type { Deadline } from '../kit/deadline.ts'
import type { FactCache } from './cache/fact-cache.ts'
import type { PrincipalFacts } from './cache/gather.ts'
import { decide } from './policy/decide.ts'
import { principalQueries, resourceQuery } from './policy/facts/queries.ts'
import type { ResourceFacts } from './policy/facts/resource-walk.ts'
import type { Action, ResourceRef } from './policy/matrix.ts'
import type { Claims } from './principal.ts'

/** The permission a streamed response was started with: user, session, expiry of the token, action and resource. */
export type RecheckedPermission = Claims & {
  readonly expiresAtMs: number
  readonly action: Action
  readonly ref: ResourceRef
}

export const isSignedIn = ({ userId }: Claims, { session, account }: PrincipalFacts, nowMs: number): boolean =>
  session !== undefined &&
  !session.ended &&
  session.expiresAtMs > nowMs &&
  session.userId === userId &&
  account?.status === 'active'

/**
 * Re-checks permissions of streamed responses, which outlive the decision they were started with.
 *
 * Guarantee: the same answer as a new request would get now, from the same facts. `peek` reads only memory; `gather` sends
 * at most one statement for any number of permissions. Neither counts as a decision, because no request asked.
 *
 * Degrades: stale facts do not suffice to continue a stream, so `gather` throws while Postgres is down.
 */
export type PermissionRecheck = {
  /** Undefined where memory lacks a fact. */
  peek(permission: RecheckedPermission): boolean | undefined
  /** One answer for each permission, in their order. */
  gather(permissions: readonly RecheckedPermission[], deadline: Deadline): Promise<boolean[]>
}

export const createPermissionRecheck = ({
  facts,
  clock,
}: {
  facts: Pick<FactCache, 'peekPrincipal' | 'peekResource' | 'gather'>
  clock: Clock
}): PermissionRecheck => {
  const isAllowed = (permission: RecheckedPermission, principal: PrincipalFacts, resource: ResourceFacts): boolean => {
    const nowMs = clock.now()
    if (permission.expiresAtMs <= nowMs || !isSignedIn(permission, principal, nowMs)) return false
    const { userId, action } = permission
    return decide({ userId, account: principal.account, ...resource }, action).allowed
  }
  return {
    peek: (permission) => {
      if (permission.expiresAtMs <= clock.now()) return false
      const principal = facts.peekPrincipal(permission.sessionId, permission.userId)
      const resource = principal && facts.peekResource(permission.ref, permission.userId)
      return principal && resource && isAllowed(permission, principal, resource)
    },
    gather: async (permissions, deadline) => {
      const queries = permissions.flatMap(({ sessionId, userId, ref }) => [
        ...principalQueries(sessionId, userId),
        resourceQuery(ref, userId),
      ])
      const gathered = await facts.gather(queries, deadline)
      return permissions.map((permission) => {
        const { sessionId, userId, ref } = permission
        return isAllowed(permission, gathered.principal(sessionId, userId), gathered.resource(ref, userId))
      })
    },
  }
}
