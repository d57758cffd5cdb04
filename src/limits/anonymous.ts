import type { ClientAddresses } from '../http/client-addresses.ts'
import { budgetOfRoute, type CountedOn } from '../http/contract.ts'
import type { RequestContext } from '../http/request-context.ts'
import { pathOf } from '../kit/authority.ts'
import type { MaybePromise } from '../kit/maybe-promise.ts'
import type { Limits } from './limits.ts'

type Fetch = (request: Request) => Response | Promise<Response>
type Route = { readonly path: string; readonly hooks: { readonly detail?: unknown } }

/** Probes and keys, which others read at intervals: they count on no budget. */
const freePaths = new Set(['/health', '/ready', '/.well-known/jwks.json'])
const bearer = /^bearer +/i
const linkedContent = /^\/api\/v1\/media\/[^/]+\/content\?(?:.*&)?(?:signature|share)=/

/** Elysia gives a path that ends with a slash to the route without it. */
const routePathOf = (url: string): string => {
  const path = pathOf(url)
  return path.endsWith('/') ? path.slice(0, -1) : path
}

/** Content by a link, which counts for the person who made the link. */
const isByLink = (url: string, path: string) => linkedContent.test(url.slice(url.indexOf(path)))

/** Whether content may be asked for by a link, however its parameter is spelt, though the request has an access token too. */
const mayBeByLink = (url: string, path: string) =>
  path.endsWith('/content') && url.includes('?') && !/\?variant=\w+$/.test(url)

/**
 * Counts requests before authentication: those to routes that verify or set a password on `auth_address`, by address; those to open
 * routes and unknown paths on `anonymous`, by the person whose valid token they carry, else by address. So people behind one
 * address do not count as one. They are counted before the application gets them, because its request hook must not wait: every
 * request would cost one more promise.
 */
export const createAnonymousCount = ({
  limits,
  addresses,
  claimsOf,
}: {
  limits: Limits
  addresses: Pick<ClientAddresses, 'forLimits'>
  claimsOf: (token: string) => MaybePromise<{ readonly userId: string }>
}) => {
  type Counted = Pick<RequestContext, 'rateLimit' | 'limitedAs'> & { refusal?: unknown }
  const counted = new WeakMap<Request, Counted>()
  /** The starts of the paths of open routes. */
  let openPaths: readonly string[] = []
  /** The paths of routes that count on `auth_address`. */
  let authPaths: ReadonlySet<string> = new Set()
  /** Those of them with parameters: how they start, and what they match. */
  let authPatterns: readonly { readonly start: string; readonly pattern: RegExp }[] = []

  const personOf = async (authorization: string): Promise<string | undefined> => {
    try {
      return (await claimsOf(authorization.replace(bearer, ''))).userId
    } catch {
      return undefined
    }
  }

  const count = async (request: Request): Promise<void> => {
    const result: Counted = {}
    counted.set(request, result)
    const authorization = request.headers.get('authorization')
    const person = authorization === null ? undefined : await personOf(authorization)
    try {
      await limits.anonymous(result, person ?? addresses.forLimits(request))
    } catch (error) {
      result.refusal = error
    }
  }

  const countAuthentication = async (request: Request): Promise<void> => {
    const address = addresses.forLimits(request)
    const result: Counted = { limitedAs: address }
    counted.set(request, result)
    try {
      await limits.authenticationFrom(result, address)
    } catch (error) {
      result.refusal = error
    }
  }

  const refuseLink = (request: Request) => {
    const result: Counted = {}
    try {
      limits.unknownCredential(result, addresses.forLimits(request))
    } catch (error) {
      counted.set(request, { ...result, refusal: error })
    }
  }

  const isAuthPath = (path: string): boolean =>
    authPaths.has(path) || authPatterns.some(({ start, pattern }) => path.startsWith(start) && pattern.test(path))

  const countIfAnonymous = (request: Request): Promise<void> | undefined => {
    const { method, url, headers } = request
    const isSigned = headers.get('authorization') !== null
    if (method === 'OPTIONS') return undefined
    const path = routePathOf(url)
    if (isAuthPath(path)) return countAuthentication(request)
    if (isSigned && !openPaths.some((open) => path.startsWith(open))) {
      // A link makes the access token irrelevant, so a token must not spare the link its check.
      if (mayBeByLink(url, path)) refuseLink(request)
      return undefined
    }
    if (freePaths.has(path)) return undefined
    if (!isByLink(url, path)) return count(request)
    refuseLink(request)
    return undefined
  }

  return {
    /** Learns which routes are open. */
    readRoutes: (routes: readonly Route[]): void => {
      const pathsOf = (budget: CountedOn) =>
        routes.filter(({ hooks }) => budgetOfRoute(hooks.detail) === budget).map(({ path }) => path)
      openPaths = [...new Set(pathsOf('anonymous').map((path) => path.split(':', 1)[0] ?? path))]
      authPaths = new Set(pathsOf('auth').filter((path) => !path.includes(':')))
      authPatterns = pathsOf('auth')
        .filter((path) => path.includes(':'))
        .map((path) => ({
          start: path.slice(0, path.indexOf(':')),
          pattern: new RegExp(`^${path.replace(/:[a-z_]+/g, '[^/]+')}$`),
        }))
    },

    countBefore: (fetch: Fetch): Fetch =>
      limits.mode === 'off'
        ? fetch
        : (request) => {
            const counting = countIfAnonymous(request)
            return counting === undefined ? fetch(request) : counting.then(() => fetch(request))
          },

    /** Throws the refusal of a request that was counted. */
    refuse: (request: Request, context: RequestContext): void => {
      if (limits.mode === 'off') return
      const found = counted.get(request)
      if (found === undefined) return
      context.rateLimit = found.rateLimit
      context.limitedAs = found.limitedAs
      if (found.refusal !== undefined) throw found.refusal
    },
  }
}
