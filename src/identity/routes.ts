import { Elysia } from 'elysia'
import type { Guard } from '../access/guard/guard.ts'
import { bodyLimits } from '../http/body.ts'
import { contract } from '../http/contract.ts'
import { closed, noContent, pageQuery, toPlace } from '../http/schema-types.ts'
import * as model from './model.ts'
import { accepted } from './recovery/model.ts'
import type { Identity } from './service.ts'
import type { Device } from './session-opening.ts'

const tags = ['auth']
const maxBytes = bodyLimits.auth
/** A route that needs no credential, because it makes one. */
const authenticates = { tags, maxBytes, open: true, budget: 'auth' } as const

type Dependencies = { identity: Identity; guard: Guard; addressOf: (request: Request) => string }

const ofProfile = { summary: 'Change your account', tags, scope: 'users:write', maxBytes }

export const identityRoutes = ({ identity, guard, addressOf }: Dependencies) => {
  const deviceOf = (request: Request): Device => ({
    userAgent: (request.headers.get('user-agent') ?? '').slice(0, 512),
    address: addressOf(request),
  })
  return new Elysia({ prefix: '/api/v1/auth' })
    .use(guard)
    .post(
      '/register',
      async ({ context, body, request, status }) => {
        const signedIn = await identity.register(context, body, deviceOf(request))
        return signedIn === undefined ? status(202, { status: 'accepted' as const }) : status(201, signedIn)
      },
      {
        ...contract(
          { body: model.registration },
          { 201: model.signInResponse, 202: accepted },
          {
            summary:
              'Register and sign in. With REQUIRE_VERIFIED_EMAIL the answer is 202, whether or not the address has an account, and its owner gets a mail',
            ...authenticates,
            errors: ['identity.email_taken', ...model.passwordErrors, 'identity.busy'],
          },
        ),
      },
    )
    .post('/login', ({ context, body, request }) => identity.login(context, body, deviceOf(request)), {
      ...contract(
        { body: model.credentials },
        { 200: model.signInResponse },
        {
          summary: 'Sign in with email and password',
          ...authenticates,
          errors: [
            'identity.credentials_wrong',
            'identity.account_suspended',
            'identity.email_not_verified',
            'identity.sign_in_paused',
            'identity.busy',
          ],
        },
      ),
    })
    .post(
      '/refresh',
      ({ context, body, request }) => identity.refresh(context, body.refresh_token, addressOf(request)),
      {
        ...contract(
          { body: model.refresh },
          { 200: model.tokenResponse },
          {
            summary:
              'Exchange a refresh token for a new one. A retry within 10 s gets the same response, and so does one within 5 minutes while none of the new tokens was used',
            ...authenticates,
            errors: ['identity.refresh_token_invalid'],
          },
        ),
      },
    )
    .post(
      '/logout',
      async ({ context, caller, request, status }) => {
        await identity.logout(context, caller, addressOf(request))
        return status(204, undefined)
      },
      { signedIn: true, ...contract({}, { 204: noContent }, { summary: 'End this session', tags }) },
    )
    .post(
      '/logout-all',
      async ({ context, caller, request, status }) => {
        await identity.logoutAll(context, caller, addressOf(request))
        return status(204, undefined)
      },
      { signedIn: true, ...contract({}, { 204: noContent }, { summary: 'End every session of this account', tags }) },
    )
    .get('/me', ({ context, caller }) => identity.getMe(context, caller), {
      signedIn: true,
      ...contract({}, { 200: model.user }, { summary: 'Read your account', tags, scope: 'users:read' }),
    })
    .patch('/me', ({ context, caller, body }) => identity.updateMe(context, caller, body), {
      signedIn: true,
      ...contract({ body: model.profile }, { 200: model.user }, ofProfile),
    })
    .delete(
      '/me',
      async ({ context, caller, request, status }) => {
        await identity.closeMe(context, caller, addressOf(request))
        return status(204, undefined)
      },
      {
        signedIn: true,
        ...contract(
          {},
          { 204: noContent },
          {
            summary:
              'Close your account and erase its personal data. Teams with other active members must be transferred or deleted first; teams without are deleted',
            tags,
            errors: ['identity.owns_teams'],
          },
        ),
      },
    )
    .post(
      '/password',
      ({ context, caller, body, request }) => identity.changePassword(context, caller, body, deviceOf(request)),
      {
        signedIn: true,
        ...contract(
          { body: model.passwordChange },
          { 200: model.tokenResponse },
          {
            summary:
              'Change the password. Every session ends, this one too: go on with the tokens of the response. The device token stays valid',
            tags,
            maxBytes,
            budget: 'auth',
            errors: ['identity.password_wrong', ...model.passwordErrors, 'identity.sign_in_paused', 'identity.busy'],
          },
        ),
      },
    )
    .get('/sessions', ({ context, caller, query }) => identity.listSessions(context, caller, toPlace(query)), {
      signedIn: true,
      ...contract(
        { query: closed(pageQuery) },
        { 200: model.sessionPage },
        { summary: 'List live sessions, newest first', tags },
      ),
    })
    .delete(
      '/sessions/:session_id',
      async ({ context, caller, params, request, status }) => {
        await identity.endSession(context, caller, params.session_id, addressOf(request))
        return status(204, undefined)
      },
      {
        signedIn: true,
        ...contract(
          { params: model.sessionParams },
          { 204: noContent },
          { summary: 'End one session', tags, errors: ['session.not_found'] },
        ),
      },
    )
}
