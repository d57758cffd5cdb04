import { Fault } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { Access } from '../access.ts'
import type { Action, ResourceRef } from '../policy/matrix.ts'
import type { Caller } from '../principal.ts'
import { type Authentication, type GuardDependencies, requireOperator } from './authentication.ts'
import type { Admitted, createGates } from './gates.ts'
import type { GuardedRoute } from './guarded-route.ts'

/** How long after a sign-in or a re-authentication its session may make sensitive changes. */
export const recentAuthenticationMs = 300_000

/**
 * Refuses a caller who has not authenticated within the last five minutes (step-up authentication, RFC 9470): a stolen token
 * alone cannot change the password or the factors of an account. A service that acts for a person has never authenticated.
 */
export const requireRecentAuthentication = (caller: Caller, nowMs: number): Caller => {
  if (nowMs - caller.authenticatedAtMs > recentAuthenticationMs) {
    throw new Fault('session.reauthentication_required', {
      extensions: { max_age_seconds: recentAuthenticationMs / 1_000, reason: 'age' },
    })
  }
  return caller
}

type RequestParts = { readonly params: Record<string, string>; readonly body: unknown }
/** Who may call: a person, an operator, or a person with a permission. */
type Who = 'person' | 'operator' | readonly [action: Action, resourceOf: (parts: RequestParts) => ResourceRef]

type Dependencies = {
  access: Pick<Access, 'require'>
  clock: GuardDependencies['clock']
  authentication: Authentication
  gates: ReturnType<typeof createGates>
  /** A route that no service may call for a user. */
  newRoute: () => GuardedRoute
}

/** The macro `recently` of the guard. */
export const createRecently =
  ({ access, clock, authentication, gates, newRoute }: Dependencies) =>
  (who: Who) => {
    const route = newRoute()
    const { authenticateToken, credentialOf, refuseKey } = authentication
    return {
      introspect: gates.countBy(route, who === 'operator' ? gates.operator(route) : gates.person(route)),
      resolve: async ({
        request,
        context,
        entry,
        params,
        body,
      }: {
        request: Request
        context: RequestContext
        entry: Admitted | undefined
        params: Record<string, string>
        body: unknown
      }): Promise<{ caller: Caller }> => {
        const wanted = typeof who === 'string' ? undefined : { action: who[0], ref: who[1]({ params, body }) }
        const credential = await credentialOf(request, context, entry)
        if (credential.kind === 'key') return refuseKey(credential, context)
        const caller = await authenticateToken(credential, context, wanted && [wanted.ref])
        if (who === 'operator') requireOperator(caller)
        await route.spend.person(context, caller)
        requireRecentAuthentication(caller, clock.now())
        if (wanted !== undefined) await access.require(caller, wanted.action, wanted.ref, context.deadline)
        return { caller }
      },
    }
  }
