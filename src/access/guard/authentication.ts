import { Fault, invalidInput } from '../../fault.ts'
import { actingHeader } from '../../http/contract.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { SessionCookies } from '../../http/session-cookies.ts'
import type { Clock } from '../../kit/clock.ts'
import { isId } from '../../kit/id.ts'
import { type MaybePromise, mapMaybePromise } from '../../kit/maybe-promise.ts'
import type { SpendingOfRoutes } from '../../limits/spending.ts'
import type { Access } from '../access.ts'
import type { CircumstanceFinding } from '../policy/findings.ts'
import type { ResourceRef, Scope } from '../policy/matrix.ts'
import type {
  Caller,
  Credential,
  KeyCredential,
  Principal,
  Service,
  TokenClaims,
  TokenCredential,
} from '../principal.ts'
import { readServiceKey, serviceKeyPrefix } from '../service-key.ts'
import type { Barrier } from './barrier.ts'
import type { GuardedRoute } from './guarded-route.ts'
import type { Tickets } from './tickets.ts'

const scheme = 'bearer '

/** The text of a bearer header (RFC 6750 §2.1). The scheme is case-insensitive, and spaces follow it (RFC 9110 §11.4). */
const bearerOf = (header: string | null): string => {
  const isBearer = header?.startsWith('Bearer ') === true || header?.slice(0, scheme.length).toLowerCase() === scheme
  if (header === null || !isBearer) throw new Fault('identity.not_signed_in')
  const credential = header.slice(scheme.length)
  return credential.startsWith(' ') ? credential.trimStart() : credential
}

const onlyServices = () => new Fault('access.services_only')
const onlyPeople = () => new Fault('access.people_only')
const onlyAdmins = () => new Fault('access.admins_only')

export const requireOperator = (caller: Caller): Caller => {
  if (caller.role !== 'admin') throw onlyAdmins()
  return caller
}

export type GuardDependencies = {
  access: Access
  /** `beforeVerifying` may refuse a token that was not verified yet. */
  claimsOf: (token: string, beforeVerifying: () => void) => MaybePromise<TokenClaims>
  spending: SpendingOfRoutes
  cookies: Pick<SessionCookies, 'accessTokenOf'>
  tickets: Tickets
  barrier: Barrier
  clock: Pick<Clock, 'now'>
  screen: Screen
}

/**
 * What the layer of the security context finds about a request and the session of its caller. Throws
 * `session.reauthentication_required` where the request is refused, unless its route is a way out of that.
 */
export type Screen = (caller: Caller, context: RequestContext, isWayOut: boolean) => CircumstanceFinding

/** What authentication has to know of a route. */
type RouteOptions = Pick<GuardedRoute, 'scope' | 'isWayOut'>

/** The user that a request with a service key names. Throws `request.invalid` where it names none. */
const readActingUser = (request: Request): string => {
  const id = request.headers.get(actingHeader)
  if (isId(id)) return id
  throw invalidInput('headers', `/${actingHeader}`, 'must be the id of the user for whom the service acts')
}

/** For routes that need Postgres anyway: 503 at once where session and account are known only from stale facts. */
const refuseStale = (caller: Caller): Caller => {
  if (caller.stale) throw new Fault('database.unavailable')
  return caller
}

const toToken = (claims: TokenClaims): TokenCredential => ({ kind: 'token', claims })
const toPerson = (caller: Caller): Principal => ({ kind: 'person', caller })
const toService = (service: Service): Principal => ({ kind: 'service', service })

const maxReadKeys = 1_000

/** Reads service keys. The text of one that is in use is decoded and hashed once. */
const createKeyReader = () => {
  const read = new Map<string, Credential>()
  return (text: string): Credential => {
    const known = read.get(text)
    if (known !== undefined) return known
    const key = readServiceKey(text)
    if (key === undefined) throw new Fault('identity.not_signed_in')
    if (read.size >= maxReadKeys) read.clear()
    const credential = { kind: 'key', key } as const
    read.set(text, credential)
    return credential
  }
}

/** What an authenticated request has to pass yet: the restrictions of the service and, for a person, the context of the session. */
const createPassage = ({ barrier, screen }: Pick<GuardDependencies, 'barrier' | 'screen'>) => ({
  screened: (caller: Caller, context: RequestContext, isWayOut: boolean): Caller => {
    barrier.require(context, caller.restrictions, caller.role === 'admin' ? 'operator' : 'other')
    context.contextFinding = screen(caller, context, isWayOut)
    return caller
  },
  passedService: (service: Service, context: RequestContext): Service => {
    barrier.require(context, service.restrictions, 'other')
    return service
  },
})

/** Reads credentials, and authenticates by them: the functions have the facts of session, account and service key checked. */
export const createAuthentication = ({
  access,
  claimsOf,
  spending,
  cookies,
  screen,
  barrier,
}: Omit<GuardDependencies, 'tickets' | 'clock'>) => {
  const readKey = createKeyReader()

  const { screened, passedService } = createPassage({ barrier, screen })

  const authenticatePerson = (
    { claims }: TokenCredential,
    context: RequestContext,
    isWayOut: boolean,
    resources?: readonly ResourceRef[],
  ): MaybePromise<Caller> => {
    const caller = access.authenticate(claims, context.deadline, resources)
    return caller instanceof Promise
      ? caller.then((found) => screened(found, context, isWayOut))
      : screened(caller, context, isWayOut)
  }

  /** As `authenticatePerson`, for routes that need Postgres anyway. */
  const authenticateToken = (
    credential: TokenCredential,
    context: RequestContext,
    resources?: readonly ResourceRef[],
    isWayOut = false,
  ): MaybePromise<Caller> => mapMaybePromise(authenticatePerson(credential, context, isWayOut, resources), refuseStale)

  const authenticateKey = (
    { key }: KeyCredential,
    scope: Scope | undefined,
    context: RequestContext,
  ): MaybePromise<Service> =>
    mapMaybePromise(
      access.authenticateService(key, scope, context.deadline, () => context.addressOf(context.request)),
      (service) => passedService(service, context),
    )

  /** The user for whom the service of a key acts, on a route that admits services with this scope. */
  const authenticateActing = (
    credential: KeyCredential,
    request: Request,
    context: RequestContext,
    scope: Scope,
    resources?: readonly ResourceRef[],
  ): MaybePromise<Caller> => {
    const { deadline } = context
    const service = authenticateKey(credential, scope, context)
    const caller = mapMaybePromise(service, (found) => {
      context.actingKeyId = found.keyId
      return access.authenticateActing(found, readActingUser(request), deadline, resources)
    })
    return mapMaybePromise(caller, refuseStale)
  }

  /** Refuses a valid key, on a route for people, with another code than an invalid one. */
  const refuseKey = (credential: KeyCredential, context: RequestContext): MaybePromise<never> =>
    mapMaybePromise(authenticateKey(credential, undefined, context), () => {
      throw onlyPeople()
    })

  const readToken = (text: string, request: Request, context: RequestContext): MaybePromise<Credential> =>
    mapMaybePromise(
      claimsOf(text, () => spending.refuseUnknown(request, context)),
      toToken,
    )

  /** Throws 401 for a token that is malformed, forged or expired, and for a text that is no service key. */
  const readBearer = (request: Request, context: RequestContext): MaybePromise<Credential> => {
    const text = bearerOf(context.authorization)
    return text.startsWith(serviceKeyPrefix) ? readKey(text) : readToken(text, request, context)
  }

  /** As `readBearer`. A request without `Authorization` may have the token of a person in a cookie. */
  const readCredential = (request: Request, context: RequestContext): MaybePromise<Credential> => {
    const token = context.authorization === null ? cookies.accessTokenOf(request, context) : undefined
    return token === undefined ? readBearer(request, context) : readToken(token, request, context)
  }

  return {
    readBearer,
    readCredential,

    /** The credential that the gate has read; a route without input has no gate. */
    credentialOf: (
      request: Request,
      context: RequestContext,
      entry: { readonly credential: Credential } | undefined,
      read = readCredential,
    ): MaybePromise<Credential> => (entry === undefined ? read(request, context) : entry.credential),

    authenticateToken,
    refuseKey,

    /** A caller whose session and account memory knows; see `Access`. */
    authenticateFromMemory: (
      { claims }: TokenCredential,
      context: RequestContext,
      isWayOut = false,
    ): Caller | undefined => {
      const caller = access.authenticateFromMemory(claims)
      return caller && screened(caller, context, isWayOut)
    },

    /** The caller of a route; by a service key the user for whom it acts, where the route has a scope. */
    authenticate: (
      credential: Credential,
      request: Request,
      context: RequestContext,
      route: RouteOptions,
      resources?: readonly ResourceRef[],
    ): MaybePromise<Caller> => {
      if (credential.kind === 'token') return authenticateToken(credential, context, resources, route.isWayOut())
      const scope = route.scope()
      if (scope === undefined) return refuseKey(credential, context)
      return authenticateActing(credential, request, context, scope, resources)
    },

    authenticateService: (credential: Credential, context: RequestContext, scope: Scope): MaybePromise<Service> => {
      if (credential.kind === 'key') return authenticateKey(credential, scope, context)
      // The valid token of a person is refused with another code than an invalid one.
      return mapMaybePromise(authenticatePerson(credential, context, false), () => {
        throw onlyServices()
      })
    },

    authenticatePrincipal: (
      credential: Credential,
      context: RequestContext,
      scope: Scope,
      resources?: readonly ResourceRef[],
    ): MaybePromise<Principal> =>
      credential.kind === 'key'
        ? mapMaybePromise(authenticateKey(credential, scope, context), toService)
        : mapMaybePromise(authenticatePerson(credential, context, false, resources), toPerson),
  }
}

export type Authentication = ReturnType<typeof createAuthentication>
