import type { RequestContext } from '../../http/request-context.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Deadline } from '../../kit/deadline.ts'
import type { MaybePromise } from '../../kit/maybe-promise.ts'
import type { Spending } from '../../limits/spending.ts'
import type { Scope } from '../policy/matrix.ts'
import type { Credential, Principal } from '../principal.ts'
import { type Authentication, requireOperator } from './authentication.ts'
import type { Admitted, createGates } from './gates.ts'
import type { GuardedRoute } from './guarded-route.ts'

/** Whether a new request with the same credential would be admitted now. Fails closed: false also where that is not known. */
export type Recheck = (deadline: Deadline) => Promise<boolean>

type Parts = {
  readonly authentication: Pick<Authentication, 'readBearer' | 'credentialOf' | 'authenticatePrincipal'>
  readonly gates: ReturnType<typeof createGates>
  readonly clock: Pick<Clock, 'now'>
  readonly newRoute: () => GuardedRoute
  readonly count: (
    spend: Spending,
    context: RequestContext,
    principal: Principal,
  ) => MaybePromise<{ principal: Principal }>
}

/** The macro for operators and services, which may check its caller again while a streamed response lasts. */
export const createRechecked =
  ({ authentication, gates, clock, newRoute, count }: Parts) =>
  (scope: Scope) => {
    const route = newRoute()
    const { readBearer, credentialOf, authenticatePrincipal } = authentication

    const enter = async (credential: Credential, context: RequestContext): Promise<Principal> => {
      const principal = await authenticatePrincipal(credential, context, scope)
      if (principal.kind === 'person') requireOperator(principal.caller)
      return principal
    }

    const recheckOf =
      (credential: Credential, context: RequestContext): Recheck =>
      async (deadline) => {
        if (credential.kind === 'token' && credential.claims.expiresAtMs <= clock.now()) return false
        try {
          const principal = await enter(credential, { ...context, deadline })
          return principal.kind === 'service' || principal.caller.stale !== true
        } catch {
          return false
        }
      }

    return {
      introspect: gates.countBy(route, gates.personOrService(scope, readBearer)),
      resolve: async ({
        request,
        context,
        entry,
      }: {
        request: Request
        context: RequestContext
        entry: Admitted | undefined
      }): Promise<{ principal: Principal; recheck: Recheck }> => {
        const credential = await credentialOf(request, context, entry, readBearer)
        const principal = await enter(credential, context)
        const counted = await count(route.spend, context, principal)
        return { ...counted, recheck: recheckOf(credential, context) }
      },
    }
  }
