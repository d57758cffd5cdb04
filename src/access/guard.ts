import { Elysia } from 'elysia'
import { Fault } from '../fault.ts'
import { contextSlot, resolved } from '../http/elysia-adapter.ts'
import type { RequestContext } from '../http/request-context.ts'
import { type MaybePromise, mapMaybePromise } from '../kit/maybe-promise.ts'
import type { Access } from './access.ts'
import type { StreamPermission } from './permission-recheck.ts'
import type { Action, ResourceRef, Scope } from './policy/matrix.ts'
import type { Caller, Principal, Service, TokenClaims } from './principal.ts'
import { serviceKeyPrefix } from './service-key.ts'

const scheme = 'bearer '

/** The credential of a bearer header (RFC 6750 §2.1). The scheme is case-insensitive, and spaces follow it (RFC 9110 §11.4). */
const credentialOf = (request: Request): string => {
  const header = request.headers.get('authorization')
  const isBearer = header?.startsWith('Bearer ') === true || header?.slice(0, scheme.length).toLowerCase() === scheme
  if (header === null || !isBearer) throw new Fault('identity.not_signed_in')
  const credential = header.slice(scheme.length)
  return credential.startsWith(' ') ? credential.trimStart() : credential
}

/** The parts of a request that name its resources. */
type RequestParts = { readonly params: Record<string, string>; readonly body: unknown }
type ResourcesOf = (parts: RequestParts) => readonly ResourceRef[]
type Permission = readonly [action: Action, resourceOf: (parts: RequestParts) => ResourceRef]

export type Guard = ReturnType<typeof createGuard>

/**
 * Authentication and authorization of every route that is not public, as Elysia macros. A route without one of them is
 * public, and nothing here prevents that: test/http/authorization-matrix.test.ts fails for a route that its table does not
 * list or that admits another caller than the table says.
 *
 * - `signedIn: true` requires an access token (401) and adds `caller`. `signedIn: resourcesOf` also prefetches the facts
 *   about these resources.
 * - `signedInOrOtherCredential: { hasOtherCredential, resourcesOf }` is the same, unless the query carries another
 *   credential: then the access token is ignored, `caller` is undefined and the route checks that credential itself.
 * - `may: [action, resourceOf]` also requires the permission: 404 where the caller may not read the resource, 403 where it
 *   may read it but not do this. `mayWithRecheck` is the same for a streamed response, and adds the `permission` that the
 *   stream re-checks while it lasts.
 * - `operator: true` requires an operator (403).
 * - `personOrService: { scope, resourcesOf }` also admits a service whose key has the scope, and adds `principal`.
 *   `personOrServiceByQuery` is the same for resources named in the query.
 * - `operatorOrService: scope` admits operators and services whose key has the scope, and adds `principal`.
 * - `service: scope` admits only services whose key has the scope, and adds `service`.
 *
 * Cost: a prefetch shares the statement that loads session and account. Where memory has both, no statement is sent and the
 * resources are ignored; the decision then loads the facts that memory lacks.
 *
 * Degrades: while Postgres is down and the lease has ended, the macros that admit services admit people and services on stale
 * facts (see `StaleReads`). Those for people alone answer 503 at once, because their routes need rows from Postgres anyway.
 */
export const createGuard = ({
  access,
  claimsOf,
}: {
  access: Access
  claimsOf: (token: string) => MaybePromise<TokenClaims>
}) => {
  const authenticateToken = (
    token: string,
    context: RequestContext,
    resources?: readonly ResourceRef[],
  ): MaybePromise<Caller> => {
    const claims = claimsOf(token)
    return claims instanceof Promise
      ? claims.then((verified) => access.authenticate(verified, context.deadline, resources))
      : access.authenticate(claims, context.deadline, resources)
  }
  /** For routes that need Postgres anyway: 503 at once where session and account are known only from stale facts. */
  const authenticate = (
    request: Request,
    context: RequestContext,
    resources?: readonly ResourceRef[],
  ): MaybePromise<Caller> =>
    mapMaybePromise(authenticateToken(credentialOf(request), context, resources), (caller) => {
      if (caller.stale) throw new Fault('database.unavailable')
      return caller
    })
  /** 401 for an invalid credential; 403 for a key without the scope, and for the valid token of a person. */
  const authenticateService = async (request: Request, context: RequestContext, scope: Scope): Promise<Service> => {
    const credential = credentialOf(request)
    if (credential.startsWith(serviceKeyPrefix)) return access.authenticateService(credential, scope, context.deadline)
    await authenticateToken(credential, context)
    throw new Fault('access.services_only')
  }
  const authenticatePrincipal = (
    request: Request,
    context: RequestContext,
    scope: Scope,
    resources?: readonly ResourceRef[],
  ): MaybePromise<Principal> => {
    const credential = credentialOf(request)
    return credential.startsWith(serviceKeyPrefix)
      ? access
          .authenticateService(credential, scope, context.deadline)
          .then((service) => ({ kind: 'service', service }))
      : mapMaybePromise(authenticateToken(credential, context, resources), (caller) => ({ kind: 'person', caller }))
  }
  return new Elysia({ name: 'guard' }).decorate(contextSlot).macro({
    signedIn: (resourcesOf: true | ResourcesOf) => ({
      resolve: ({ request, context, params, body }) => {
        const resources = resourcesOf === true ? undefined : resourcesOf({ params, body })
        return resolved(mapMaybePromise(authenticate(request, context, resources), (caller) => ({ caller })))
      },
    }),
    signedInOrOtherCredential: ({
      hasOtherCredential,
      resourcesOf,
    }: {
      hasOtherCredential: (query: unknown) => boolean
      resourcesOf: ResourcesOf
    }) => ({
      resolve: ({ request, context, query, params, body }) => {
        if (hasOtherCredential(query)) return resolved<{ caller: Caller | undefined }>({ caller: undefined })
        const authenticated = authenticate(request, context, resourcesOf({ params, body }))
        return resolved<{ caller: Caller | undefined }>(mapMaybePromise(authenticated, (caller) => ({ caller })))
      },
    }),
    operator: (_: true) => ({
      resolve: async ({ request, context }) => {
        const caller = await authenticate(request, context)
        if (caller.role !== 'admin') throw new Fault('access.admins_only')
        return { caller }
      },
    }),
    personOrService: ({
      scope,
      resourcesOf,
    }: {
      scope: Scope
      resourcesOf?: (body: unknown) => readonly ResourceRef[]
    }) => ({
      resolve: ({ request, context, body }) => {
        const authenticated = authenticatePrincipal(request, context, scope, resourcesOf?.(body))
        return resolved(mapMaybePromise(authenticated, (principal) => ({ principal })))
      },
    }),
    /** Separate from `personOrService`, because Elysia parses the query of every route whose hooks mention it. */
    personOrServiceByQuery: ({
      scope,
      resourcesOf,
    }: {
      scope: Scope
      resourcesOf: (query: unknown) => readonly ResourceRef[]
    }) => ({
      resolve: ({ request, context, query }) => {
        const authenticated = authenticatePrincipal(request, context, scope, resourcesOf(query))
        return resolved(mapMaybePromise(authenticated, (principal) => ({ principal })))
      },
    }),
    operatorOrService: (scope: Scope) => ({
      resolve: async ({ request, context }) => {
        const principal = await authenticatePrincipal(request, context, scope)
        if (principal.kind === 'person' && principal.caller.role !== 'admin') throw new Fault('access.admins_only')
        return { principal }
      },
    }),
    service: (scope: Scope) => ({
      resolve: async ({ request, context }) => ({ service: await authenticateService(request, context, scope) }),
    }),
    may: ([action, resourceOf]: Permission) => ({
      resolve: async ({ request, context, params, body }) => {
        const ref = resourceOf({ params, body })
        const caller = await authenticate(request, context, [ref])
        await access.require(caller, action, ref, context.deadline)
        return { caller }
      },
    }),
    mayWithRecheck: ([action, resourceOf]: Permission) => ({
      resolve: async ({ request, context, params, body }) => {
        const ref = resourceOf({ params, body })
        const caller = await authenticate(request, context, [ref])
        const { userId, sessionId, expiresAtMs } = await claimsOf(credentialOf(request))
        await access.require(caller, action, ref, context.deadline)
        const permission: StreamPermission = { userId, sessionId, expiresAtMs, action, ref }
        return { caller, permission }
      },
    }),
  })
}
