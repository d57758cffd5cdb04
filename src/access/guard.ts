import { Elysia } from 'elysia'
import { Fault } from '../fault.ts'
import { admitBy, contextSlot, resolved } from '../http/elysia-adapter.ts'
import type { Entry, Gate } from '../http/input.ts'
import type { RequestContext } from '../http/request-context.ts'
import { type MaybePromise, mapMaybePromise } from '../kit/maybe-promise.ts'
import type { Spending, SpendingOfRoutes } from '../limits/spending.ts'
import type { Access } from './access.ts'
import type { StreamPermission } from './permission-recheck.ts'
import type { Action, ResourceRef, Scope } from './policy/matrix.ts'
import type { Caller, Credential, PresentedKey, Principal, Service, TokenClaims } from './principal.ts'
import { readServiceKey, serviceKeyPrefix } from './service-key.ts'

/** Reading so small a body costs less than finding out whether its caller may have it read. */
const smallBodyBytes = 1_024

const scheme = 'bearer '

/** The text of a bearer header (RFC 6750 §2.1). The scheme is case-insensitive, and spaces follow it (RFC 9110 §11.4). */
const bearerOf = (request: Request): string => {
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

/** The credential that the gate of a route has read, so that it is read once. */
type Admitted = Entry & {
  readonly credential: Credential
  readonly caller?: Caller | undefined
  readonly service?: Service
}

/** For `decorate`: what the gate adds to the context. Undefined on routes without input, which need no gate. */
const entrySlot: { entry: Admitted | undefined } = { entry: undefined }

const onlyServices = () => new Fault('access.services_only')
const onlyAdmins = () => new Fault('access.admins_only')

const requireOperator = (caller: Caller): Caller => {
  if (caller.role !== 'admin') throw onlyAdmins()
  return caller
}

type Dependencies = {
  access: Access
  /** `beforeVerifying` may refuse a token that was not verified yet. */
  claimsOf: (token: string, beforeVerifying: () => void) => MaybePromise<TokenClaims>
  spending: SpendingOfRoutes
}

/** Authentication after the input was read: the functions have the facts of session, account and service key checked. */
const createAuthentication = ({ access, claimsOf, spending }: Dependencies) => {
  const toToken = (claims: TokenClaims): Credential => ({ kind: 'token', claims })
  /** Throws 401 for a token that is malformed, forged or expired, and for a text that is no service key. */
  const readCredential = (request: Request, context: RequestContext): MaybePromise<Credential> => {
    const text = bearerOf(request)
    if (!text.startsWith(serviceKeyPrefix)) {
      return mapMaybePromise(
        claimsOf(text, () => spending.refuseUnknown(request, context)),
        toToken,
      )
    }
    const key = readServiceKey(text)
    if (key === undefined) throw new Fault('identity.not_signed_in')
    return { kind: 'key', key }
  }
  const credentialOf = (
    request: Request,
    context: RequestContext,
    entry: Admitted | undefined,
  ): MaybePromise<Credential> => entry?.credential ?? readCredential(request, context)

  const claimsIn = (credential: Credential): TokenClaims => {
    // Only the macros that name services admit them.
    if (credential.kind === 'key') throw new Fault('identity.not_signed_in')
    return credential.claims
  }
  /** For routes that need Postgres anyway: 503 at once where session and account are known only from stale facts. */
  const refuseStale = (caller: Caller): Caller => {
    if (caller.stale) throw new Fault('database.unavailable')
    return caller
  }
  const authenticate = (
    credential: Credential,
    context: RequestContext,
    resources?: readonly ResourceRef[],
  ): MaybePromise<Caller> =>
    mapMaybePromise(access.authenticate(claimsIn(credential), context.deadline, resources), refuseStale)
  const authenticateService = (
    credential: Credential,
    context: RequestContext,
    scope: Scope,
  ): MaybePromise<Service> => {
    if (credential.kind === 'key') return access.authenticateService(credential.key, scope, context.deadline)
    // The valid token of a person is refused with another code than an invalid one.
    return mapMaybePromise(access.authenticate(credential.claims, context.deadline), () => {
      throw onlyServices()
    })
  }
  const toServicePrincipal = (service: Service): Principal => ({ kind: 'service', service })
  const toPersonPrincipal = (caller: Caller): Principal => ({ kind: 'person', caller })
  const authenticatePrincipal = (
    credential: Credential,
    context: RequestContext,
    scope: Scope,
    resources?: readonly ResourceRef[],
  ): MaybePromise<Principal> =>
    credential.kind === 'key'
      ? mapMaybePromise(access.authenticateService(credential.key, scope, context.deadline), toServicePrincipal)
      : mapMaybePromise(access.authenticate(credential.claims, context.deadline, resources), toPersonPrincipal)

  const requirePrincipal = (
    request: Request,
    context: RequestContext,
    entry: Admitted | undefined,
    scope: Scope,
    resources?: readonly ResourceRef[],
  ): MaybePromise<{ principal: Principal }> =>
    mapMaybePromise(
      mapMaybePromise(credentialOf(request, context, entry), (credential) =>
        authenticatePrincipal(credential, context, scope, resources),
      ),
      (principal) => ({ principal }),
    )

  return { readCredential, credentialOf, claimsIn, authenticate, authenticateService, requirePrincipal }
}

/** The gates: authentication before the input is read. */
const createGates = (
  access: Access,
  { readCredential, claimsIn, authenticate, authenticateService }: ReturnType<typeof createAuthentication>,
) => {
  const admitted = (credential: Credential, confirm?: Entry['confirm']): Admitted => ({ credential, confirm })

  /** Admits a session that memory knows. One that it does not know, and one with a small body, is confirmed later. */
  const admitSession = (credential: Credential, context: RequestContext): Admitted => {
    const claims = claimsIn(credential)
    const isSmall = (context.contentLength ?? Number.POSITIVE_INFINITY) <= smallBodyBytes
    const caller = isSmall ? undefined : access.authenticateFromMemory(claims)
    if (caller !== undefined) return { credential, confirm: undefined, caller }
    return admitted(credential, () => access.authenticate(claims, context.deadline))
  }
  const admitPerson: Gate = (request, context) => {
    const credential = readCredential(request, context)
    return credential instanceof Promise
      ? credential.then((read) => admitSession(read, context))
      : admitSession(credential, context)
  }
  const admitUnless =
    (hasOtherCredential: (query: unknown) => boolean): Gate =>
    (request, context, query) =>
      hasOtherCredential(query) ? undefined : admitPerson(request, context, query)
  const admitKey = (key: PresentedKey, context: RequestContext, scope: Scope, credential: Credential) =>
    mapMaybePromise(access.authenticateService(key, scope, context.deadline), (service) => ({
      credential,
      confirm: undefined,
      service,
    }))
  const admitPersonOrService =
    (scope: Scope): Gate =>
    (request, context) =>
      mapMaybePromise(
        readCredential(request, context),
        (credential): MaybePromise<Admitted> =>
          credential.kind === 'key'
            ? admitKey(credential.key, context, scope, credential)
            : admitSession(credential, context),
      )
  const admitService =
    (scope: Scope): Gate =>
    (request, context) =>
      mapMaybePromise(readCredential(request, context), (credential) =>
        mapMaybePromise(authenticateService(credential, context, scope), (service) => ({
          credential,
          confirm: undefined,
          service,
        })),
      )
  const admitOperator: Gate = (request, context) =>
    mapMaybePromise(readCredential(request, context), (credential) =>
      mapMaybePromise(authenticate(credential, context), (caller) => {
        requireOperator(caller)
        return { credential, confirm: undefined, caller }
      }),
    )

  return { admitPerson, admitUnless, admitPersonOrService, admitService, admitOperator }
}

/** `value`, once the request was counted. */
const after = <T>(counted: MaybePromise<void>, value: T): MaybePromise<T> =>
  counted instanceof Promise ? counted.then(() => value) : value

const countPerson = (spend: Spending, context: RequestContext, caller: Caller): MaybePromise<Caller> =>
  after(spend.person(context, caller), caller)

/** Counts the items of a batch too. */
const countPrincipal = <P extends { readonly principal: Principal }>(
  spend: Spending,
  context: RequestContext,
  found: P,
  items = 0,
): MaybePromise<P> => {
  const { principal } = found
  const counted =
    principal.kind === 'person' ? spend.person(context, principal.caller) : spend.service(context, principal.service)
  if (items <= 1) return after(counted, found)
  const who = principal.kind === 'person' ? principal.caller : principal.service
  return mapMaybePromise(counted, () => after(spend.items(context, who, items), found))
}

/** For `introspect`: counts a request whose caller the gate knows, before its body is read. */
const countBy = (spend: Spending, gate: Gate) => {
  const admit = admitBy((request, context, query) =>
    mapMaybePromise(gate(request, context, query), (entry) => {
      const { caller, service } = (entry ?? {}) as Partial<Admitted>
      if (caller !== undefined) return after(spend.person(context, caller), entry)
      if (service !== undefined) return after(spend.service(context, service), entry)
      const confirm = entry?.confirm
      if (entry === undefined || confirm === undefined) return entry
      // Called for a request that is refused for its body, which is counted too.
      return {
        ...entry,
        confirm: () => mapMaybePromise(confirm(), (found) => spend.person(context, found as Caller)),
      }
    }),
  )
  return (hook: unknown): void => {
    spend.readRoute(hook)
    admit(hook)
  }
}

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
 * Order: each macro has a gate, which admits the caller before the input of the request is read, and a `resolve`, which
 * authenticates it after that. So a request without a valid credential is answered 401 or 403, however wrong it is otherwise,
 * and its body is not read; and access that is lost while a slow body comes in is refused.
 *
 * Each request is counted on the budget of its caller, once: before its body is read where memory knows the caller, else when
 * the caller is known.
 *
 * Cost: a prefetch shares the statement that loads session and account. The gate does not send it: where memory lacks session
 * or account, a small body is read for a token whose signature is valid. Where memory has both, no statement is sent and the
 * resources are ignored; the decision then loads the facts that memory lacks. Operators and services are authenticated by the
 * gate; without a lease memory is not read, and that costs a statement more.
 *
 * Degrades: while Postgres is down and the lease has ended, the macros that admit services admit people and services on stale
 * facts (see `StaleReads`). Those for people alone answer 503 at once, because their routes need rows from Postgres anyway.
 */
export const createGuard = ({ access, claimsOf, spending }: Dependencies) => {
  const authentication = createAuthentication({ access, claimsOf, spending })
  const { credentialOf, claimsIn, authenticate, authenticateService, requirePrincipal } = authentication
  const { admitPerson, admitUnless, admitPersonOrService, admitService, admitOperator } = createGates(
    access,
    authentication,
  )

  return new Elysia({ name: 'guard' })
    .decorate(contextSlot)
    .decorate(entrySlot)
    .macro({
      signedIn: (resourcesOf: true | ResourcesOf) => {
        const spend = spending.create()
        return {
          introspect: countBy(spend, admitPerson),
          resolve: ({ request, context, entry, params, body }) => {
            const resources = resourcesOf === true ? undefined : resourcesOf({ params, body })
            const authenticated = mapMaybePromise(credentialOf(request, context, entry), (credential) =>
              authenticate(credential, context, resources),
            )
            const counted = mapMaybePromise(authenticated, (caller) => countPerson(spend, context, caller))
            return resolved(mapMaybePromise(counted, (caller) => ({ caller })))
          },
        }
      },
      signedInOrOtherCredential: ({
        hasOtherCredential,
        resourcesOf,
      }: {
        hasOtherCredential: (query: unknown) => boolean
        resourcesOf: ResourcesOf
      }) => {
        const spend = spending.create()
        return {
          introspect: countBy(spend, admitUnless(hasOtherCredential)),
          resolve: ({ request, context, entry, query, params, body }) => {
            if (hasOtherCredential(query)) return resolved<{ caller: Caller | undefined }>({ caller: undefined })
            const authenticated = mapMaybePromise(credentialOf(request, context, entry), (credential) =>
              authenticate(credential, context, resourcesOf({ params, body })),
            )
            const counted = mapMaybePromise(authenticated, (caller) => countPerson(spend, context, caller))
            return resolved<{ caller: Caller | undefined }>(mapMaybePromise(counted, (caller) => ({ caller })))
          },
        }
      },
      operator: (_: true) => {
        const spend = spending.create()
        return {
          introspect: countBy(spend, admitOperator),
          resolve: async ({ request, context, entry }) => {
            const caller = requireOperator(await authenticate(await credentialOf(request, context, entry), context))
            await spend.person(context, caller)
            return { caller }
          },
        }
      },
      personOrService: ({
        scope,
        resourcesOf,
      }: {
        scope: Scope
        resourcesOf?: (body: unknown) => readonly ResourceRef[]
      }) => {
        const spend = spending.create()
        return {
          introspect: countBy(spend, admitPersonOrService(scope)),
          resolve: ({ request, context, entry, body }) => {
            const resources = resourcesOf?.(body)
            const found = requirePrincipal(request, context, entry, scope, resources)
            return resolved(mapMaybePromise(found, (each) => countPrincipal(spend, context, each, resources?.length)))
          },
        }
      },
      /** Separate from `personOrService`, because Elysia parses the query of every route whose hooks mention it. */
      personOrServiceByQuery: ({
        scope,
        resourcesOf,
      }: {
        scope: Scope
        resourcesOf: (query: unknown) => readonly ResourceRef[]
      }) => {
        const spend = spending.create()
        return {
          introspect: countBy(spend, admitPersonOrService(scope)),
          resolve: ({ request, context, entry, query }) => {
            const found = requirePrincipal(request, context, entry, scope, resourcesOf(query))
            return resolved(mapMaybePromise(found, (each) => countPrincipal(spend, context, each)))
          },
        }
      },
      operatorOrService: (scope: Scope) => {
        const spend = spending.create()
        return {
          introspect: countBy(spend, admitPersonOrService(scope)),
          resolve: async ({ request, context, entry }) => {
            const { principal } = await requirePrincipal(request, context, entry, scope)
            if (principal.kind === 'person') requireOperator(principal.caller)
            return await countPrincipal(spend, context, { principal })
          },
        }
      },
      service: (scope: Scope) => {
        const spend = spending.create()
        return {
          introspect: countBy(spend, admitService(scope)),
          resolve: async ({ request, context, entry }) => {
            const service = await authenticateService(await credentialOf(request, context, entry), context, scope)
            await spend.service(context, service)
            return { service, countItems: (items: number) => spend.items(context, service, items) }
          },
        }
      },
      may: ([action, resourceOf]: Permission) => {
        const spend = spending.create()
        return {
          introspect: countBy(spend, admitPerson),
          resolve: async ({ request, context, entry, params, body }) => {
            const ref = resourceOf({ params, body })
            const caller = await authenticate(await credentialOf(request, context, entry), context, [ref])
            await spend.person(context, caller)
            await access.require(caller, action, ref, context.deadline)
            return { caller }
          },
        }
      },
      mayWithRecheck: ([action, resourceOf]: Permission) => {
        const spend = spending.create()
        return {
          introspect: countBy(spend, admitPerson),
          resolve: async ({ request, context, entry, params, body }) => {
            const ref = resourceOf({ params, body })
            const credential = await credentialOf(request, context, entry)
            const caller = await authenticate(credential, context, [ref])
            await spend.person(context, caller)
            const { userId, sessionId, expiresAtMs } = claimsIn(credential)
            await access.require(caller, action, ref, context.deadline)
            const permission: StreamPermission = { userId, sessionId, expiresAtMs, action, ref }
            return { caller, permission }
          },
        }
      },
    })
}
