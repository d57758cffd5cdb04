import type { ClientAddresses } from '../http/client-addresses.ts'
import { budgetOfRoute, type CountedOn, takesCookies } from '../http/contract.ts'
import type { RequestContext } from '../http/request-context.ts'
import { pathOf } from '../kit/authority.ts'
import type { MaybePromise } from '../kit/maybe-promise.ts'
import type { Limits } from './limits.ts'

type Fetch = (request: Request) => Response | Promise<Response>
type Route = { readonly path: string; readonly hooks: { readonly detail?: unknown } }

/** Probes and keys, which others read at intervals: they count on no budget. */
const freePaths = new Set(['/health', '/ready', '/.well-known/jwks.json'])
const bearer = /^bearer +/i
const linked =
  /^\/api\/v1\/(?:media\/[^/]+\/content\?(?:.*&)?(?:signature|share)|generations\/[^/]+\/stream\?(?:.*&)?ticket)=/

/** Elysia gives a path that ends with a slash to the route without it. */
const routePathOf = (url: string): string => {
  const path = pathOf(url)
  return path.endsWith('/') ? path.slice(0, -1) : path
}

/** Content by a link and streams by a ticket, which count for the person who made the link or the ticket. */
const isByLink = (url: string, path: string) => linked.test(url.slice(url.indexOf(path)))

/** Whether a request may have a link or a ticket, however its parameter is spelt, though it has an access token too. */
const mayBeByLink = (url: string, path: string) =>
  /\/(?:content|stream)$/.test(path) && url.includes('?') && !/\?variant=\w+$/.test(url)

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
  cookieTokenOf,
}: {
  limits: Limits
  addresses: Pick<ClientAddresses, 'forLimits'>
  claimsOf: (token: string) => MaybePromise<{ readonly userId: string }>
  /** The access token that a request carries in a cookie that counts. */
  cookieTokenOf: (request: Request) => string | undefined
}) => {
  type Counted = Pick<RequestContext, 'rateLimit' | 'limitedAs'> & { refusal?: unknown }
  const counted = new WeakMap<Request, Counted>()
  /** The starts of the paths of open routes. */
  let openPaths: readonly string[] = []
  /** The paths of routes that count on `auth_address`. */
  let authPaths: ReadonlySet<string> = new Set()
  /** Those of them with parameters: how they start, and what they match. */
  let authPatterns: readonly { readonly start: string; readonly pattern: RegExp }[] = []
  /** The paths of routes that look at no cookie. */
  let bearerPaths: ReadonlySet<string> = new Set()

  const personOf = async (token: string): Promise<string | undefined> => {
    try {
      return (await claimsOf(token)).userId
    } catch {
      return undefined
    }
  }

  const isSigned = (request: Request, path: string): boolean =>
    request.headers.get('authorization') !== null || (!bearerPaths.has(path) && cookieTokenOf(request) !== undefined)

  const count = async (request: Request): Promise<void> => {
    const result: Counted = {}
    counted.set(request, result)
    const token = request.headers.get('authorization')?.replace(bearer, '') ?? cookieTokenOf(request)
    const person = token === undefined ? undefined : await personOf(token)
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
    const { method, url } = request
    if (method === 'OPTIONS') return undefined
    const path = routePathOf(url)
    if (isAuthPath(path)) return countAuthentication(request)
    if (isSigned(request, path) && !openPaths.some((open) => path.startsWith(open))) {
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
      bearerPaths = new Set(routes.filter(({ hooks }) => !takesCookies(hooks.detail)).map(({ path }) => path))
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
