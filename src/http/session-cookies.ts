import { Fault } from '../fault.ts'
import { formatSetCookie, valuesOfCookie } from '../kit/cookie.ts'
import type { OriginRule } from './origin-rule.ts'
import type { RequestContext } from './request-context.ts'

/** The `__Host-` prefix makes browsers refuse them from other hosts of the domain and over plain HTTP. */
export const cookieNames = {
  access: '__Host-velro_access',
  refresh: '__Host-velro_refresh',
  device: '__Host-velro_device',
} as const

type Settings = {
  readonly sameSite: 'lax' | 'none'
  readonly originRule: OriginRule
  /** How long a browser keeps the tokens of a session after a sign-in or a refresh. */
  readonly sessionSeconds: number
  readonly deviceSeconds: number
}

/** The tokens of a sign-in or a refresh. */
type Tokens<User> = {
  readonly access_token: string
  readonly refresh_token: string
  readonly device_token?: string
  readonly expires_in: number
  readonly user: User
}

/** What a browser gets instead of the tokens, which are in its cookies. */
type WithoutTokens<User> = { readonly expires_in: number; readonly user: User }

/** What a browser sent in its cookies to a route that signs in or refreshes. */
export type PresentedCookies = { readonly refreshToken: string | undefined; readonly deviceToken: string | undefined }

const opaque = /^[A-Za-z0-9_-]{43}$/
const noCookies: PresentedCookies = { refreshToken: undefined, deviceToken: undefined }

/**
 * The tokens of a session in cookies, for pages in browsers: no script can read them.
 *
 * Guarantee: a cookie counts only where the request has no `Authorization` and the origin rule admits it. A request that
 * changes something is refused with `request.origin_refused` otherwise; for one that reads, it is as if there were no cookie.
 * Two cookies of one name are no credential.
 */
export const createSessionCookies = ({ sameSite, originRule, sessionSeconds, deviceSeconds }: Settings) => {
  const requireOrigin = (request: Request): void => {
    if (!originRule.admits(request)) throw new Fault('request.origin_refused')
  }

  const tokensOf = ({ headers }: Request): readonly string[] => {
    const field = headers.get('cookie')
    return field === null ? [] : valuesOfCookie(field, cookieNames.access)
  }

  const set = (context: RequestContext, name: string, value: string, maxAgeSeconds: number): void => {
    context.setCookies = [...(context.setCookies ?? []), formatSetCookie(name, value, { sameSite, maxAgeSeconds })]
  }

  return {
    /** The access token in the cookie of a request; undefined where it has none that counts. Does not look at `Authorization`. */
    peekAccessToken: (request: Request): string | undefined => {
      const tokens = tokensOf(request)
      return tokens.length === 1 && originRule.admits(request) ? tokens[0] : undefined
    },

    /**
     * The access token in the cookie of a request without `Authorization`; undefined where it has none that counts. Throws
     * `request.origin_refused`, and `identity.not_signed_in` for two cookies of that name.
     */
    accessTokenOf: (request: Request, context: RequestContext): string | undefined => {
      const [token, another] = tokensOf(request)
      if (token === undefined) return undefined
      if (!originRule.admits(request)) {
        if (request.method === 'GET' || request.method === 'HEAD') return undefined
        throw new Fault('request.origin_refused')
      }
      context.byCookie = true
      if (another !== undefined) throw new Fault('identity.not_signed_in')
      return token
    },

    /**
     * For a route that signs in or refreshes by cookies: what the browser has of earlier sign-ins. A value that is no token
     * counts as none. Throws `request.origin_refused`.
     */
    present: (request: Request, { authorization }: RequestContext): PresentedCookies => {
      requireOrigin(request)
      const field = request.headers.get('cookie')
      if (authorization !== null || field === null) return noCookies
      const find = (name: string) => {
        const values = valuesOfCookie(field, name)
        return values.length === 1 && opaque.test(values[0] ?? '') ? values[0] : undefined
      }
      return { refreshToken: find(cookieNames.refresh), deviceToken: find(cookieNames.device) }
    },

    /** The answer to a sign-in or a refresh: the tokens, or where the client asked for cookies, the same without them. */
    deliver: <User, T extends Tokens<User>>(
      context: RequestContext,
      tokens: T & Tokens<User>,
      inCookies: boolean | undefined,
    ): T | WithoutTokens<User> => {
      if (inCookies !== true) return tokens
      const { access_token, refresh_token, device_token, expires_in, user } = tokens
      set(context, cookieNames.access, access_token, sessionSeconds)
      set(context, cookieNames.refresh, refresh_token, sessionSeconds)
      if (device_token !== undefined) set(context, cookieNames.device, device_token, deviceSeconds)
      return { expires_in, user }
    },

    /** Has the browser delete the tokens of its session. The device stays known. */
    forget: (context: RequestContext): void => {
      set(context, cookieNames.access, '', 0)
      set(context, cookieNames.refresh, '', 0)
    },
  }
}

export type SessionCookies = ReturnType<typeof createSessionCookies>
