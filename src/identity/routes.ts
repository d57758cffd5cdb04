import { Elysia } from 'elysia'
import type { Guard } from '../access/guard/guard.ts'
import { bodyLimits } from '../http/body.ts'
import { contract } from '../http/contract.ts'
import { createdAt } from '../http/created.ts'
import { closed, noContent, pageQuery, toPlace } from '../http/schema-types.ts'
import type { SessionCookies } from '../http/session-cookies.ts'
import * as factorModel from './factors/model.ts'
import { factorRoutes } from './factors/routes.ts'
import * as model from './model.ts'
import { accepted } from './recovery/model.ts'
import type { Identity } from './service.ts'
import { createSignIns } from './session-delivery.ts'

const tags = ['auth']
const maxBytes = bodyLimits.auth
/** A route that needs no credential, because it makes one. */
const authenticates = { tags, maxBytes, open: true, budget: 'auth' } as const

type Dependencies = {
  identity: Identity
  guard: Guard
  addressOf: (request: Request) => string
  sessionCookies: SessionCookies
}

const ofEndingAll = {
  summary: 'End every session of this account',
  tags,
  errors: ['session.reauthentication_required'] as const,
}
const ofProfile = { summary: 'Change your account', tags, scope: 'users:write', maxBytes }

/** Routes below the prefix of accounts. */
const sessionRoutes = (dependencies: Dependencies) => {
  const { identity, guard, addressOf } = dependencies
  const { forget } = createSignIns(dependencies)
  return new Elysia()
    .use(guard)
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
        if (params.session_id === caller.sessionId) forget(context)
        return status(204, undefined)
      },
      {
        recently: 'person',
        ...contract(
          { params: model.sessionParams },
          { 204: noContent },
          {
            summary: 'End one session',
            tags,
            errors: ['session.not_found', 'session.reauthentication_required'],
          },
        ),
      },
    )
}

export const identityRoutes = (dependencies: Dependencies) => {
  const { identity, guard, addressOf } = dependencies
  const signIns = createSignIns(dependencies)
  const { deviceOf, register, login, refresh, renew, forget } = signIns
  return new Elysia({ prefix: '/api/v1/auth' })
    .use(guard)
    .use(sessionRoutes(dependencies))
    .use(factorRoutes({ identity, guard, addressOf, signIns }))
    .post(
      '/register',
      async ({ context, body, request, set, status }) => {
        const signedIn = await register(context, body, request)
        if (signedIn === undefined) return status(202, { status: 'accepted' as const })
        return status(
          201,
          createdAt(set, () => '/api/v1/auth/me', signedIn),
        )
      },
      {
        ...contract(
          { body: model.registration },
          { 201: model.signInAnswer, 202: accepted },
          {
            summary:
              'Register and sign in. With REQUIRE_VERIFIED_EMAIL the answer is 202, whether or not the address has an account, and its owner gets a mail',
            ...authenticates,
            errors: ['request.origin_refused', 'identity.email_taken', ...model.passwordErrors, 'identity.busy'],
          },
        ),
      },
    )
    .post(
      '/login',
      async ({ context, body, request, status }) => {
        const answer = await login(context, body, request)
        return 'sign_in_token' in answer ? status(202, answer) : answer
      },
      {
        ...contract(
          { body: model.credentials },
          { 200: model.signInAnswer, 202: factorModel.secondFactorRequired },
          {
            summary:
              'Sign in with email and password. For an account with a second factor the response is 202: go on with POST /auth/login/second-factor',
            ...authenticates,
            errors: [
              'request.origin_refused',
              'identity.credentials_wrong',
              'identity.account_suspended',
              'identity.email_not_verified',
              'identity.sign_in_paused',
              'identity.busy',
            ],
          },
        ),
      },
    )
    .post('/refresh', ({ context, body, request }) => refresh(context, body, request), {
      ...contract(
        { body: model.refresh },
        { 200: model.refreshAnswer },
        {
          summary:
            'Exchange a refresh token for a new one. A retry within 10 s gets the same response, and so does one within 5 minutes while none of the new tokens was used',
          ...authenticates,
          errors: ['request.origin_refused', 'identity.refresh_token_invalid', 'session.reauthentication_required'],
        },
      ),
    })
    .post(
      '/logout',
      async ({ context, caller, request, status }) => {
        await identity.logout(context, caller, addressOf(request))
        forget(context)
        return status(204, undefined)
      },
      { signedIn: true, ...contract({}, { 204: noContent }, { summary: 'End this session', tags, isWayOut: true }) },
    )
    .post(
      '/logout-all',
      async ({ context, caller, request, status }) => {
        await identity.logoutAll(context, caller, addressOf(request))
        forget(context)
        return status(204, undefined)
      },
      {
        recently: 'person',
        ...contract({}, { 204: noContent }, ofEndingAll),
      },
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
        forget(context)
        return status(204, undefined)
      },
      {
        recently: 'person',
        ...contract(
          {},
          { 204: noContent },
          {
            summary:
              'Close your account and erase its personal data. Teams with other active members must be transferred or deleted first; teams without are deleted',
            tags,
            errors: ['identity.owns_teams', 'session.reauthentication_required'],
          },
        ),
      },
    )
    .post(
      '/password',
      async ({ context, caller, body, request }) =>
        renew(context, await identity.changePassword(context, caller, body, deviceOf(request))),
      {
        recently: 'person',
        ...contract(
          { body: model.passwordChange },
          { 200: model.refreshAnswer },
          {
            summary:
              'Change the password. Every session ends, this one too: go on with the tokens of the response, or with the cookies where the request had some. The device token stays valid',
            tags,
            maxBytes,
            budget: 'auth',
            errors: [
              'identity.password_wrong',
              ...model.passwordErrors,
              'identity.sign_in_paused',
              'identity.busy',
              'session.reauthentication_required',
            ],
          },
        ),
      },
    )
}
