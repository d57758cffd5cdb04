import { Elysia } from 'elysia'
import { contextSlot, resolved } from '../../http/elysia-adapter.ts'
import type { RequestContext } from '../../http/request-context.ts'
import { type MaybePromise, mapMaybePromise } from '../../kit/maybe-promise.ts'
import type { Spending } from '../../limits/spending.ts'
import type { Action, ResourceRef, Scope } from '../policy/matrix.ts'
import type { Caller, Principal } from '../principal.ts'
import { createAuthentication, type GuardDependencies, requireOperator } from './authentication.ts'
import { after, countCaller, createGates, entrySlot } from './gates.ts'
import { createGuardedRoute } from './guarded-route.ts'
import { createRecently } from './recent-authentication.ts'
import { createRechecked } from './rechecked.ts'
import { createStreamEntry, hasTicket } from './streams.ts'

/** The parts of a request that name its resources. */
type RequestParts = { readonly params: Record<string, string>; readonly body: unknown }
type ResourcesOf = (parts: RequestParts) => readonly ResourceRef[]
/** The resources that a body or a query names. */
type ResourcesIn = (input: unknown) => readonly ResourceRef[]
type OtherCredential = { hasOtherCredential: (query: unknown) => boolean; resourcesOf: ResourcesOf }
type Permission = readonly [action: Action, resourceOf: (parts: RequestParts) => ResourceRef]

/** Counts the items of a batch too. */
const counted = (
  spend: Spending,
  context: RequestContext,
  caller: Caller,
  items = 0,
): MaybePromise<{ caller: Caller }> => {
  const countedRequest = countCaller(spend, context, caller)
  const found = { caller }
  if (items <= 1) return after(countedRequest, found)
  return mapMaybePromise(countedRequest, () => after(spend.items(context, caller, items), found))
}

/** Counts the items of a batch too. */
const countPrincipal = (
  spend: Spending,
  context: RequestContext,
  principal: Principal,
  items = 0,
): MaybePromise<{ principal: Principal }> => {
  const countedRequest =
    principal.kind === 'person' ? spend.person(context, principal.caller) : spend.service(context, principal.service)
  const found = { principal }
  if (items <= 1) return after(countedRequest, found)
  const who = principal.kind === 'person' ? principal.caller : principal.service
  return mapMaybePromise(countedRequest, () => after(spend.items(context, who, items), found))
}

/** For routes that no service may call for a user. */
const noActing = { admitsActing: false }

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
 *   stream re-checks while it lasts. `mayWithRecheckOrTicket` also takes a ticket in the query, and then looks at no token.
 * - `operator: true` requires an operator (403).
 * - `recently: 'person'`, `recently: 'operator'` and `recently: [action, resourceOf]` are as `signedIn`, `operator` and `may`, and
 *   also require that the person has signed in or authenticated again within the last five minutes (401). They admit no service.
 * - `personOrService: { scope, resourcesOf }` also admits a service whose key has the scope, and adds `principal`.
 *   `personOrServiceByQuery` is the same for resources named in the query.
 * - `operatorOrService: scope` admits operators and services whose key has the scope, and adds `principal` and, for streamed
 *   responses, `recheck`.
 * - `service: scope` admits only services whose key has the scope, and adds `service`.
 *
 * A route whose description has a `scope` also admits services whose key has it: for the user that the request names, who is
 * then the `caller`, with the rights, the budgets and the quotas of that user. The macros for people and operators can have
 * one, but for `mayWithRecheck`. Without it a valid key is answered 403 `access.people_only`.
 *
 * A person's access token may stand in a cookie, but not for `operatorOrService` and `service`.
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
export const createGuard = (dependencies: GuardDependencies) => {
  const { access, spending, clock } = dependencies
  const authentication = createAuthentication(dependencies)
  const { readBearer, credentialOf, authenticate, authenticateService, authenticatePrincipal } = authentication
  const { enterStream, readTicket } = createStreamEntry({ ...dependencies, authentication })
  const gates = createGates(authentication)
  const newRoute = () => createGuardedRoute(spending.create())
  const newClosedRoute = () => createGuardedRoute(spending.create(), noActing)
  const parts = { clock, authentication, gates, newRoute: newClosedRoute }

  return new Elysia({ name: 'guard' })
    .decorate(contextSlot)
    .decorate(entrySlot)
    .macro({
      signedIn: (resourcesOf: true | ResourcesOf) => {
        const route = newRoute()
        return {
          introspect: gates.countBy(route, gates.person(route)),
          resolve: ({ request, context, entry, params, body }) => {
            const resources = resourcesOf === true ? undefined : resourcesOf({ params, body })
            const authenticated = mapMaybePromise(credentialOf(request, context, entry), (credential) =>
              authenticate(credential, request, context, route, resources),
            )
            return resolved(
              mapMaybePromise(authenticated, (caller) => counted(route.spend, context, caller, resources?.length)),
            )
          },
        }
      },
      signedInOrOtherCredential: ({ hasOtherCredential, resourcesOf }: OtherCredential) => {
        const route = newRoute()
        return {
          introspect: gates.countBy(route, gates.personUnless(route, hasOtherCredential)),
          resolve: ({ request, context, entry, query, params, body }) => {
            if (hasOtherCredential(query)) return resolved<{ caller: Caller | undefined }>({ caller: undefined })
            const authenticated = mapMaybePromise(credentialOf(request, context, entry), (credential) =>
              authenticate(credential, request, context, route, resourcesOf({ params, body })),
            )
            return resolved<{ caller: Caller | undefined }>(
              mapMaybePromise(authenticated, (caller) => counted(route.spend, context, caller)),
            )
          },
        }
      },
      operator: (_: true) => {
        const route = newRoute()
        return {
          introspect: gates.countBy(route, gates.operator(route)),
          resolve: async ({ request, context, entry }) => {
            const credential = await credentialOf(request, context, entry)
            const caller = requireOperator(await authenticate(credential, request, context, route))
            return await counted(route.spend, context, caller)
          },
        }
      },
      recently: createRecently({ access, ...parts }),
      personOrService: ({ scope, resourcesOf }: { scope: Scope; resourcesOf?: ResourcesIn }) => {
        const route = newClosedRoute()
        return {
          introspect: gates.countBy(route, gates.personOrService(scope)),
          resolve: ({ request, context, entry, body }) => {
            const resources = resourcesOf?.(body)
            const principal = mapMaybePromise(credentialOf(request, context, entry), (credential) =>
              authenticatePrincipal(credential, context, scope, resources),
            )
            return resolved(
              mapMaybePromise(principal, (found) => countPrincipal(route.spend, context, found, resources?.length)),
            )
          },
        }
      },
      /** Separate from `personOrService`, because Elysia parses the query of every route whose hooks mention it. */
      personOrServiceByQuery: ({ scope, resourcesOf }: { scope: Scope; resourcesOf: ResourcesIn }) => {
        const route = newClosedRoute()
        return {
          introspect: gates.countBy(route, gates.personOrService(scope)),
          resolve: ({ request, context, entry, query }) => {
            const principal = mapMaybePromise(credentialOf(request, context, entry), (credential) =>
              authenticatePrincipal(credential, context, scope, resourcesOf(query)),
            )
            return resolved(mapMaybePromise(principal, (found) => countPrincipal(route.spend, context, found)))
          },
        }
      },
      operatorOrService: createRechecked({ ...parts, count: countPrincipal }),
      service: (scope: Scope) => {
        const route = newClosedRoute()
        return {
          introspect: gates.countBy(route, gates.service(scope)),
          resolve: ({ request, context, entry }) => {
            const service = mapMaybePromise(credentialOf(request, context, entry, readBearer), (credential) =>
              authenticateService(credential, context, scope),
            )
            return resolved(
              mapMaybePromise(service, (found) =>
                after(route.spend.service(context, found), {
                  service: found,
                  countItems: (items: number) => route.spend.items(context, found, items),
                }),
              ),
            )
          },
        }
      },
      may: ([action, resourceOf]: Permission) => {
        const route = newRoute()
        return {
          introspect: gates.countBy(route, gates.person(route)),
          resolve: async ({ request, context, entry, params, body }) => {
            const ref = resourceOf({ params, body })
            const credential = await credentialOf(request, context, entry)
            const caller = await authenticate(credential, request, context, route, [ref])
            await countCaller(route.spend, context, caller)
            await access.require(caller, action, ref, context.deadline)
            return { caller }
          },
        }
      },
      mayWithRecheck: ([action, resourceOf]: Permission) => {
        const route = newClosedRoute()
        return {
          introspect: gates.countBy(route, gates.person(route)),
          resolve: async ({ request, context, entry, params, body }) =>
            await enterStream(route.spend, { request, context, entry, action, ref: resourceOf({ params, body }) }),
        }
      },
      mayWithRecheckOrTicket: ([action, resourceOf]: Permission) => {
        const route = newClosedRoute()
        return {
          introspect: gates.countBy(route, gates.personUnless(route, hasTicket)),
          resolve: async ({ request, context, entry, query, params, body }) => {
            const ref = resourceOf({ params, body })
            const ticket = hasTicket(query) ? readTicket(request, ref) : undefined
            return await enterStream(route.spend, { request, context, entry, action, ref, ticket })
          },
        }
      },
    })
}
