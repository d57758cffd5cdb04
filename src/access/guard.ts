import { Elysia } from 'elysia'
import type { Call } from '../call.ts'
import { Fault } from '../fault.ts'
import type { Access, Awaitable, Caller, Claims } from './access.ts'
import type { Action, ResourceRef } from './model.ts'

const scheme = 'bearer '

/** The credential of a bearer header (RFC 6750 §2.1), whose scheme may be spelt in any case (RFC 9110 §11.1). */
const credentialOf = (request: Request): string => {
  const header = request.headers.get('authorization')
  if (header?.slice(0, scheme.length).toLowerCase() !== scheme) throw new Fault('identity.not_signed_in')
  return header.slice(scheme.length)
}

/** What a guard may look at to learn which thing a request is about. */
type Asked = { readonly params: Record<string, string>; readonly body: unknown }

/**
 * What a guard puts into the context. Elysia awaits what a `resolve` returns from a call, promise or not, while its types
 * know promises only; without one a request that finds everything in memory waits for nothing.
 */
const asContext = (caller: Awaitable<Caller>) =>
  (caller instanceof Promise ? caller.then((admitted) => ({ caller: admitted })) : { caller }) as Promise<{
    caller: Caller
  }>

export type Guard = ReturnType<typeof createGuard>

/**
 * The door in front of every route that is not open.
 *
 * `signedIn: true` puts `caller` into the context or answers 401. `signedIn: about` does the same and fetches the facts
 * of the things the request is about in the same statement. `may: [action, thing]` asks for the decision on top: 404
 * where the caller may not read the thing, 403 where it may read but not do this.
 */
export const createGuard = ({
  access,
  claimsOf,
}: {
  access: Access
  claimsOf: (token: string) => Awaitable<Claims>
}) => {
  const enter = (request: Request, call: Call, about?: readonly ResourceRef[]): Awaitable<Caller> => {
    const claims = claimsOf(credentialOf(request))
    return claims instanceof Promise
      ? claims.then((verified) => access.enter(verified, call.deadline, about))
      : access.enter(claims, call.deadline, about)
  }
  return new Elysia({ name: 'guard' }).decorate('call', undefined as unknown as Call).macro({
    signedIn: (about: true | ((asked: Asked) => readonly ResourceRef[])) => ({
      resolve: ({ request, call, params, body }) => {
        return asContext(enter(request, call, about === true ? undefined : about({ params, body })))
      },
    }),
    may: ([action, thing]: readonly [Action, (asked: Asked) => ResourceRef]) => ({
      resolve: async ({ request, call, params, body }) => {
        const ref = thing({ params, body })
        const caller = await enter(request, call, [ref])
        await access.require(caller, action, ref, call.deadline)
        return { caller }
      },
    }),
  })
}
