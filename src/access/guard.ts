import { Elysia } from 'elysia'
import { Fault } from '../fault.ts'
import { contextSlot, resolved } from '../http/elysia-adapter.ts'
import type { RequestContext } from '../http/request-context.ts'
import { type MaybePromise, mapMaybePromise } from '../kit/maybe-promise.ts'
import type { Access } from './access.ts'
import type { RecheckedPermission } from './permission-recheck.ts'
import type { Action, ResourceRef, Scope } from './policy/matrix.ts'
import type { Caller, Principal, Service, TokenClaims } from './principal.ts'
import { serviceKeyPrefix } from './service-key.ts'

const scheme = 'bearer '

/** The credential of a bearer header (RFC 6750 §2.1), whose scheme may be spelt in any case (RFC 9110 §11.1). */
const credentialOf = (request: Request): string => {
  const header = request.headers.get('authorization')
  const isBearer = header?.startsWith('Bearer ') === true || header?.slice(0, scheme.length).toLowerCase() === scheme
  if (header === null || !isBearer) throw new Fault('identity.not_signed_in')
  return header.slice(scheme.length)
}

/** What a guard may look at to learn which thing a request is about. */
type Asked = { readonly params: Record<string, string>; readonly body: unknown }

export type Guard = ReturnType<typeof createGuard>

/**
 * The door in front of every route that is not open.
 *
 * `signedIn: true` puts `caller` into the context or answers 401. `signedIn: about` does the same and fetches the facts
 * of the things the request is about in the same statement. `signedInUnless: brings` does so where the query brings no
 * credential of another kind; where it does, `caller` is undefined, a bearer token is not looked at, and the route sees to
 * what was brought. `may: [action, thing]` asks for the decision on top: 404 where the caller may not read the thing, 403
 * where it may read but not do this; `mayWithRecheck` is the same for a streamed response, and puts the
 * `permission` into the context, which the stream re-checks while it lasts. `admin: true` is for operators.
 * `asks` lets services in as well, whose key has the scope, and puts `asker` into the context; `service: scope` lets in
 * nobody else. `operates: scope` lets in operators and services whose key has the scope, and puts `asker` into the context.
 */
export const createGuard = ({
  access,
  claimsOf,
}: {
  access: Access
  claimsOf: (token: string) => MaybePromise<TokenClaims>
}) => {
  const enterWith = (
    credential: string,
    context: RequestContext,
    about?: readonly ResourceRef[],
  ): MaybePromise<Caller> => {
    const claims = claimsOf(credential)
    return claims instanceof Promise
      ? claims.then((verified) => access.enter(verified, context.deadline, about))
      : access.enter(claims, context.deadline, about)
  }
  /** For what needs Postgres besides: where that is gone, nobody waits to learn it again. */
  const enter = (request: Request, context: RequestContext, about?: readonly ResourceRef[]): MaybePromise<Caller> =>
    mapMaybePromise(enterWith(credentialOf(request), context, about), (caller) => {
      if (caller.stale) throw new Fault('database.unavailable')
      return caller
    })
  /** A key of a service; whoever is signed in without one is told what it lacks. */
  const enterService = async (request: Request, context: RequestContext, scope: Scope): Promise<Service> => {
    const credential = credentialOf(request)
    if (credential.startsWith(serviceKeyPrefix)) return access.enterService(credential, scope, context.deadline)
    await enterWith(credential, context)
    throw new Fault('access.services_only')
  }
  const ask = (
    request: Request,
    context: RequestContext,
    scope: Scope,
    about?: readonly ResourceRef[],
  ): MaybePromise<Principal> => {
    const credential = credentialOf(request)
    return credential.startsWith(serviceKeyPrefix)
      ? access.enterService(credential, scope, context.deadline).then((service) => ({ kind: 'service', service }))
      : mapMaybePromise(enterWith(credential, context, about), (caller) => ({ kind: 'person', caller }))
  }
  return new Elysia({ name: 'guard' }).decorate(contextSlot).macro({
    signedIn: (about: true | ((asked: Asked) => readonly ResourceRef[])) => ({
      resolve: ({ request, context, params, body }) => {
        const entered = enter(request, context, about === true ? undefined : about({ params, body }))
        return resolved(mapMaybePromise(entered, (caller) => ({ caller })))
      },
    }),
    signedInUnless: ({
      brings,
      about,
    }: {
      brings: (query: unknown) => boolean
      about: (asked: Asked) => readonly ResourceRef[]
    }) => ({
      resolve: ({ request, context, query, params, body }) => {
        if (brings(query)) return resolved<{ caller: Caller | undefined }>({ caller: undefined })
        const entered = enter(request, context, about({ params, body }))
        return resolved<{ caller: Caller | undefined }>(mapMaybePromise(entered, (caller) => ({ caller })))
      },
    }),
    /** Operators of the platform only. */
    admin: (_: true) => ({
      resolve: async ({ request, context }) => {
        const caller = await enter(request, context)
        if (caller.role !== 'admin') throw new Fault('access.admins_only')
        return { caller }
      },
    }),
    asks: ({ scope, about }: { scope: Scope; about?: (body: unknown) => readonly ResourceRef[] }) => ({
      resolve: ({ request, context, body }) => {
        const asking = ask(request, context, scope, about?.(body))
        return resolved(mapMaybePromise(asking, (asker) => ({ asker })))
      },
    }),
    /** `asks` for what is named in the query: apart, because a query is parsed for every route whose hooks mention it. */
    asksByQuery: ({ scope, about }: { scope: Scope; about: (query: unknown) => readonly ResourceRef[] }) => ({
      resolve: ({ request, context, query }) => {
        const asking = ask(request, context, scope, about(query))
        return resolved(mapMaybePromise(asking, (asker) => ({ asker })))
      },
    }),
    operates: (scope: Scope) => ({
      resolve: async ({ request, context }) => {
        const asker = await ask(request, context, scope)
        if (asker.kind === 'person' && asker.caller.role !== 'admin') throw new Fault('access.admins_only')
        return { asker }
      },
    }),
    service: (scope: Scope) => ({
      resolve: async ({ request, context }) => ({ service: await enterService(request, context, scope) }),
    }),
    may: ([action, thing]: readonly [Action, (asked: Asked) => ResourceRef]) => ({
      resolve: async ({ request, context, params, body }) => {
        const ref = thing({ params, body })
        const caller = await enter(request, context, [ref])
        await access.require(caller, action, ref, context.deadline)
        return { caller }
      },
    }),
    mayWithRecheck: ([action, thing]: readonly [Action, (asked: Asked) => ResourceRef]) => ({
      resolve: async ({ request, context, params, body }) => {
        const ref = thing({ params, body })
        const caller = await enter(request, context, [ref])
        const { userId, sessionId, expiresAtMs } = await claimsOf(credentialOf(request))
        await access.require(caller, action, ref, context.deadline)
        const permission: RecheckedPermission = { userId, sessionId, expiresAtMs, action, ref }
        return { caller, permission }
      },
    }),
  })
}
