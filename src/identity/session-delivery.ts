import { Fault, invalidInput } from '../fault.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { Static } from '../http/schema-types.ts'
import type { PresentedCookies, SessionCookies } from '../http/session-cookies.ts'
import { userAgentOf } from '../security-context/screening.ts'
import type * as factorModel from './factors/model.ts'
import type * as model from './model.ts'
import type { Identity } from './service.ts'
import type { Device } from './session-opening.ts'

type Dependencies = {
  identity: Identity
  addressOf: (request: Request) => string
  sessionCookies: SessionCookies
}

/** Opening and refreshing sessions, whose tokens are in the response or in cookies. */
export const createSignIns = ({ identity, addressOf, sessionCookies }: Dependencies) => {
  const deviceOf = (request: Request): Device => ({
    userAgent: userAgentOf(request),
    address: addressOf(request),
  })

  /** What the browser has of earlier sign-ins; undefined for a client that asks for no cookies. */
  const present = (context: RequestContext, request: Request, inCookies: boolean | undefined) =>
    inCookies === true ? sessionCookies.present(request, context) : undefined

  /** The answer to a sign-in. The session that the browser had before ends. */
  const conclude = async (
    context: RequestContext,
    request: Request,
    browser: PresentedCookies | undefined,
    opened: model.SignInResponse,
  ) => {
    if (browser?.refreshToken !== undefined)
      await identity.endPresented(context, browser.refreshToken, addressOf(request))
    return sessionCookies.deliver(context, opened, browser !== undefined)
  }

  return {
    deviceOf,

    register: async (
      context: RequestContext,
      { cookies, ...given }: Static<typeof model.registration>,
      request: Request,
    ) => {
      const browser = present(context, request, cookies)
      const opened = await identity.register(context, given, deviceOf(request))
      return opened === undefined ? undefined : conclude(context, request, browser, opened)
    },

    login: async (
      context: RequestContext,
      { cookies, ...given }: Static<typeof model.credentials>,
      request: Request,
    ) => {
      const browser = present(context, request, cookies)
      const deviceToken = given.device_token ?? browser?.deviceToken
      const known = deviceToken === undefined ? {} : { device_token: deviceToken }
      const opened = await identity.login(context, { ...given, ...known }, deviceOf(request))
      if ('sign_in_token' in opened) return opened
      return conclude(context, request, browser, opened)
    },

    refresh: async (context: RequestContext, given: Static<typeof model.refresh>, request: Request) => {
      const { refresh_token, cookies } = given
      if ((refresh_token === undefined) !== (cookies === true))
        throw invalidInput('body', '/refresh_token', 'must be given, unless `cookies` is true')
      const token = cookies ? sessionCookies.present(request, context).refreshToken : refresh_token
      try {
        if (token === undefined) throw new Fault('identity.refresh_token_invalid')
        const refreshed = await identity.refresh(context, token, deviceOf(request))
        return sessionCookies.deliver(context, refreshed, cookies)
      } catch (error) {
        // The browser does not send tokens again that lead nowhere.
        if (cookies && error instanceof Fault && error.code === 'identity.refresh_token_invalid')
          sessionCookies.forget(context)
        throw error
      }
    },

    /** As `login`, with a second factor. */
    completeSignIn: async (
      context: RequestContext,
      { cookies, ...given }: Static<typeof factorModel.secondStep>,
      request: Request,
    ) => {
      const browser = present(context, request, cookies)
      return conclude(context, request, browser, await identity.completeSignIn(context, given, deviceOf(request)))
    },

    /** As `login`, with a passkey alone. */
    signInWithPasskey: async (
      context: RequestContext,
      { cookies, ...given }: Static<typeof factorModel.passkeySignIn>,
      request: Request,
    ) => {
      const browser = present(context, request, cookies)
      const device_token = given.device_token ?? browser?.deviceToken
      const signedIn = await identity.passkeySignIn.signIn(context, { ...given, device_token }, deviceOf(request))
      return conclude(context, request, browser, signedIn)
    },

    /** The tokens with which the caller goes on: a caller by cookies gets them in cookies. */
    renew: (context: RequestContext, tokens: model.TokenResponse) =>
      sessionCookies.deliver(context, tokens, context.byCookie),

    /** The session of the request has ended: a browser that has its tokens in cookies is to delete them. */
    forget: (context: RequestContext): void => {
      if (context.byCookie) sessionCookies.forget(context)
    },
  }
}

export type SignIns = ReturnType<typeof createSignIns>
