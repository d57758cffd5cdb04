import { Elysia } from 'elysia'
import type { Guard } from '../../access/guard/guard.ts'
import { Fault, invalidInput } from '../../fault.ts'
import { bodyLimits } from '../../http/body.ts'
import { contract } from '../../http/contract.ts'
import { createdAt } from '../../http/created.ts'
import { contextSlot } from '../../http/elysia-adapter.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { Responder } from '../../http/responder.ts'
import { noContent } from '../../http/schema-types.ts'
import type { SessionCookies } from '../../http/session-cookies.ts'
import { encodeBase64url } from '../../kit/base64url.ts'
import { formatSetCookie, valuesOfCookie } from '../../kit/cookie.ts'
import { secondFactorRequired } from '../factors/model.ts'
import { refreshAnswer, signInAnswer } from '../model.ts'
import type { Identity } from '../service.ts'
import type { Device } from '../session-opening.ts'
import * as model from './model.ts'
import type { IdentityProviders } from './service.ts'
import { decodeBrowserKey, newBrowserKey, signInLifeS } from './sign-in-state.ts'

const tags = ['auth']
const maxBytes = bodyLimits.auth
const authenticates = { tags, open: true, budget: 'auth' } as const

/** Binds a sign-in to the browser that began it. The prefix makes browsers refuse it from other hosts of the domain. */
const cookieName = '__Host-velro_provider'

type Dependencies = {
  identity: Identity
  identityProviders: IdentityProviders
  sessionCookies: SessionCookies
  guard: Guard
  responder: Responder
  addressOf: (request: Request) => string
}

const deviceOf = (request: Request, addressOf: Dependencies['addressOf']): Device => ({
  userAgent: (request.headers.get('user-agent') ?? '').slice(0, 512),
  address: addressOf(request),
})

const browserKeyOf = ({ headers }: Request): Uint8Array | undefined => {
  const [value, another] = valuesOfCookie(headers.get('cookie') ?? '', cookieName)
  return another === undefined ? decodeBrowserKey(value) : undefined
}

const maxSearchLength = 8_192

/** The answer of a provider. Providers add parameters of their own, so that there is no schema of it. */
const answerIn = ({ url }: Request): { state: string; search: string } => {
  const at = url.indexOf('?')
  const search = at === -1 ? '' : url.slice(at)
  const [state, another] = new URLSearchParams(search).getAll('state')
  if (state === undefined || another !== undefined || search.length > maxSearchLength)
    throw new Fault('identity_provider.state_invalid')
  return { state, search }
}

/** Signing in: for people without a session, in their browsers. */
const signInRoutes = ({
  identity,
  identityProviders,
  sessionCookies,
  responder,
  addressOf,
}: Omit<Dependencies, 'guard'>) => {
  const redirect = ({ requestId }: RequestContext, location: string, cookie?: string): Response =>
    responder.raw(null, {
      status: 303,
      requestId,
      origin: null,
      headers: { location, 'set-cookie': cookie },
    })

  return new Elysia()
    .decorate(contextSlot)
    .get('/identity-providers', () => identityProviders.list(), {
      ...contract({}, { 200: model.providers }, { summary: 'List the providers to sign in with', tags, open: true }),
    })
    .get(
      '/identity-providers/:provider_id/start',
      async ({ context, params, query, request }) => {
        const { return_to, code_challenge, ticket } = query
        // Kept where the browser has one: sign-ins in several windows do not end each other.
        const browserKey = browserKeyOf(request) ?? newBrowserKey()
        const visit = { providerId: params.provider_id, browserKey, address: addressOf(request) }
        const cookie = formatSetCookie(cookieName, encodeBase64url(browserKey), {
          sameSite: 'lax',
          maxAgeSeconds: signInLifeS,
        })
        if (ticket !== undefined) {
          if (return_to !== undefined || code_challenge !== undefined)
            throw invalidInput('query', '/ticket', 'must be the only parameter')
          return redirect(context, await identityProviders.startWithTicket(context, ticket, visit), cookie)
        }
        if (return_to === undefined) throw invalidInput('query', '/return_to', 'must be given')
        if (code_challenge === undefined) throw invalidInput('query', '/code_challenge', 'must be given')
        const intent = { returnTo: return_to, codeChallenge: code_challenge }
        return redirect(context, await identityProviders.start(context, intent, visit), cookie)
      },
      {
        ...contract(
          { params: model.providerParams, query: model.start },
          {},
          {
            summary:
              'Open this address in a browser to sign in with a provider. The browser comes back to `return_to` and has a `code` for POST /auth/identity-providers/sign-in',
            ...authenticates,
            redirects: `To the provider, or to \`return_to\`. An \`error\` with it is one of ${model.returnErrorWords}`,
            errors: ['identity_provider.not_found', 'identity_provider.ticket_invalid'],
          },
        ),
      },
    )
    .get(
      '/identity-providers/:provider_id/callback',
      async ({ context, params, request }) => {
        // A HEAD would use the code of the provider up.
        if (request.method !== 'GET') throw new Fault('identity_provider.state_invalid')
        const answer = answerIn(request)
        const visit = {
          providerId: params.provider_id,
          browserKey: browserKeyOf(request),
          address: addressOf(request),
        }
        return redirect(context, await identityProviders.finish(context, answer, visit))
      },
      {
        ...contract(
          { params: model.providerParams },
          {},
          {
            summary: 'Where providers send browsers back to; register this address with the provider',
            ...authenticates,
            redirects: `To \`return_to\`, and a \`code\` with it. An \`error\` in its place is one of ${model.returnErrorWords}`,
            errors: ['identity_provider.not_found', 'identity_provider.state_invalid'],
          },
        ),
      },
    )
    .post(
      '/identity-providers/sign-in',
      async ({ context, body: { cookies, ...given }, request, status }) => {
        const browser = cookies === true ? sessionCookies.present(request, context) : undefined
        const token = given.device_token ?? browser?.deviceToken
        const input = { ...given, ...(token !== undefined && { device_token: token }) }
        const answer = await identityProviders.signIn(context, input, deviceOf(request, addressOf))
        if ('sign_in_token' in answer) return status(202, answer)
        // The session that the browser had before ends.
        if (browser?.refreshToken !== undefined)
          await identity.endPresented(context, browser.refreshToken, addressOf(request))
        return sessionCookies.deliver(context, answer, cookies)
      },
      {
        ...contract(
          { body: model.signIn },
          { 200: signInAnswer, 202: secondFactorRequired },
          {
            summary:
              'Sign in with the `code` that the browser came back with. A person who is new here gets an account, under an address that the provider has verified',
            ...authenticates,
            maxBytes,
            errors: [
              'request.origin_refused',
              'identity_provider.code_invalid',
              'identity_provider.code_used',
              'identity_provider.email_unverified',
              'identity_provider.account_exists',
              'identity.email_taken',
              'identity.account_suspended',
            ],
          },
        ),
      },
    )
}

/** What signed-in people do with identities. */
const accountRoutes = ({ identityProviders, sessionCookies, guard, addressOf }: Omit<Dependencies, 'responder'>) =>
  new Elysia()
    .use(guard)
    .post(
      '/identity-providers/:provider_id/start',
      ({ caller, params, body }) =>
        identityProviders.prepare(params.provider_id, {
          purpose: body.purpose,
          userId: caller.userId,
          returnTo: body.return_to,
          codeChallenge: body.code_challenge,
        }),
      {
        signedIn: true,
        ...contract(
          { params: model.providerParams, body: model.preparation },
          { 200: model.prepared },
          {
            summary: 'Get the address at which you prove an identity for your account',
            tags,
            maxBytes,
            isWayOut: true,
            errors: ['identity_provider.not_found'],
          },
        ),
      },
    )
    .post(
      '/identity-providers/reauthenticate',
      async ({ context, caller, body, request }) => {
        const tokens = await identityProviders.reauthenticate(context, caller, body, deviceOf(request, addressOf))
        // A caller by cookies gets them in cookies.
        return sessionCookies.deliver(context, tokens, context.byCookie)
      },
      {
        signedIn: true,
        ...contract(
          { body: model.givenCode },
          { 200: refreshAnswer },
          {
            summary:
              'Authenticate again with a linked identity, as sensitive changes require. A new session takes the place of the one of the request',
            tags,
            maxBytes,
            budget: 'auth',
            isWayOut: true,
            errors: ['identity_provider.code_invalid', 'identity_provider.code_used', 'identity.second_factor_missing'],
          },
        ),
      },
    )
    .get('/linked-identities', ({ context, caller }) => identityProviders.linked.list(context, caller), {
      signedIn: true,
      ...contract({}, { 200: model.linkedIdentities }, { summary: 'List the identities linked to your account', tags }),
    })
    .post(
      '/linked-identities',
      async ({ context, caller, body, request, set, status }) => {
        const linked = await identityProviders.linked.link(context, caller, body, addressOf(request))
        return status(
          201,
          createdAt(set, ({ id }) => `/api/v1/auth/linked-identities/${id}`, linked),
        )
      },
      {
        recently: 'person',
        ...contract(
          { body: model.givenCode },
          { 201: model.linkedIdentity },
          {
            summary: 'Link an identity to your account, to sign in with it from now on',
            tags,
            maxBytes,
            errors: [
              'session.reauthentication_required',
              'identity_provider.code_invalid',
              'identity_provider.code_used',
              'identity_provider.email_unverified',
              'linked_identity.address_unverified',
              'linked_identity.taken',
              'linked_identity.too_many',
            ],
          },
        ),
      },
    )
    .delete(
      '/linked-identities/:linked_identity_id',
      async ({ context, caller, params, request, status }) => {
        await identityProviders.linked.unlink(context, caller, params.linked_identity_id, addressOf(request))
        return status(204, undefined)
      },
      {
        recently: 'person',
        ...contract(
          { params: model.linkedIdentityParams },
          { 204: noContent },
          {
            summary: 'Unlink an identity, unless it is the last way to sign in',
            tags,
            errors: ['session.reauthentication_required', 'linked_identity.not_found', 'linked_identity.last_way_in'],
          },
        ),
      },
    )

export const identityProviderRoutes = (dependencies: Dependencies) =>
  new Elysia({ prefix: '/api/v1/auth' }).use(signInRoutes(dependencies)).use(accountRoutes(dependencies))
