import type { Clock } from '../kit/clock.ts'
import type { Deadline } from '../kit/deadline.ts'
import type { FactCache } from './cache/fact-cache.ts'
import type { PrincipalFacts } from './cache/gather.ts'
import { decide } from './policy/decide.ts'
import { principalQueries, resourceQuery } from './policy/facts/queries.ts'
import type { ResourceFacts } from './policy/facts/resource-walk.ts'
import type { Action, ResourceRef } from './policy/matrix.ts'
import type { Claims } from './principal.ts'

/** What somebody was let in for: by whom, until when their token is good, and to do what. */
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
 * Whether those who were let in would be let in now: for answers that go on after they were decided on.
 *
 * Promise: what a request would be answered at this moment, by the same facts. `peek` asks memory and nobody else;
 * `gather` sends at most one statement, however many ask. Neither counts as a decision: nobody asked anew. What was
 * remembered when Postgres went away is nothing to go on by, so then `gather` throws.
 */
export type PermissionRecheck = {
  /** Undefined where memory does not tell. */
  peek(right: RecheckedPermission): boolean | undefined
  /** In the order asked. */
  gather(rights: readonly RecheckedPermission[], deadline: Deadline): Promise<boolean[]>
}

export const createPermissionRecheck = ({
  facts,
  clock,
}: {
  facts: Pick<FactCache, 'peekPrincipal' | 'peekResource' | 'gather'>
  clock: Clock
}): PermissionRecheck => {
  const judge = (right: RecheckedPermission, principal: PrincipalFacts, resource: ResourceFacts): boolean => {
    const nowMs = clock.now()
    if (right.expiresAtMs <= nowMs || !isSignedIn(right, principal, nowMs)) return false
    return decide({ userId: right.userId, account: principal.account, ...resource }, right.action).allowed
  }
  return {
    peek: (right) => {
      if (right.expiresAtMs <= clock.now()) return false
      const principal = facts.peekPrincipal(right.sessionId, right.userId)
      const resource = principal && facts.peekResource(right.ref, right.userId)
      return principal && resource && judge(right, principal, resource)
    },
    gather: async (rights, deadline) => {
      const queries = rights.flatMap(({ sessionId, userId, ref }) => [
        ...principalQueries(sessionId, userId),
        resourceQuery(ref, userId),
      ])
      const known = await facts.gather(queries, deadline)
      return rights.map((right) => {
        const { sessionId, userId, ref } = right
        return judge(right, known.principal(sessionId, userId), known.resource(ref, userId))
      })
    },
  }
}
