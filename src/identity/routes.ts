import { Elysia } from 'elysia'
import type { Guard } from '../access/guard.ts'
import { contract } from '../http/contract.ts'
import { closed, nothing, pageQuery, toPlace } from '../http/schema-types.ts'
import * as model from './model.ts'
import type { Device, Identity } from './service.ts'

const tags = ['auth']

type Dependencies = { identity: Identity; guard: Guard; addressOf: (request: Request) => string }

export const identityRoutes = ({ identity, guard, addressOf }: Dependencies) => {
  const deviceOf = (request: Request): Device => ({
    userAgent: (request.headers.get('user-agent') ?? '').slice(0, 512),
    address: addressOf(request),
  })
  return new Elysia({ prefix: '/api/v1/auth' })
    .use(guard)
    .post(
      '/register',
      async ({ call, body, request, status }) => status(201, await identity.register(call, body, deviceOf(request))),
      {
        ...contract(
          { body: model.registration },
          { 201: model.tokenResponse },
          {
            summary: 'Register and sign in',
            tags,
            open: true,
            faults: ['identity.email_taken', 'identity.password_common', 'identity.busy'],
          },
        ),
      },
    )
    .post('/login', ({ call, body, request }) => identity.login(call, body, deviceOf(request)), {
      ...contract(
        { body: model.credentials },
        { 200: model.tokenResponse },
        {
          summary: 'Sign in with email and password',
          tags,
          open: true,
          faults: ['identity.credentials_wrong', 'identity.account_suspended', 'identity.busy'],
        },
      ),
    })
    .post('/refresh', ({ call, body }) => identity.refresh(call, body.refresh_token), {
      ...contract(
        { body: model.refresh },
        { 200: model.tokenResponse },
        {
          summary: 'Exchange a refresh token for its successor; a retry within 10 s gets the same answer',
          tags,
          open: true,
          faults: ['identity.refresh_token_invalid'],
        },
      ),
    })
    .post(
      '/logout',
      async ({ call, caller, status }) => {
        await identity.logout(call, caller)
        return status(204, undefined)
      },
      { signedIn: true, ...contract({}, { 204: nothing }, { summary: 'End this session', tags }) },
    )
    .post(
      '/logout-all',
      async ({ call, caller, status }) => {
        await identity.logoutAll(call, caller)
        return status(204, undefined)
      },
      { signedIn: true, ...contract({}, { 204: nothing }, { summary: 'End every session of this account', tags }) },
    )
    .get('/me', ({ call, caller }) => identity.getMe(call, caller), {
      signedIn: true,
      ...contract({}, { 200: model.user }, { summary: 'The account that asks', tags }),
    })
    .patch('/me', ({ call, caller, body }) => identity.updateMe(call, caller, body), {
      signedIn: true,
      ...contract({ body: model.profile }, { 200: model.user }, { summary: 'Change the account that asks', tags }),
    })
    .delete(
      '/me',
      async ({ call, caller, status }) => {
        await identity.closeMe(call, caller)
        return status(204, undefined)
      },
      {
        signedIn: true,
        ...contract({}, { 204: nothing }, { summary: 'Close the account and forget the person', tags }),
      },
    )
    .post(
      '/password',
      async ({ call, caller, body, status }) => {
        await identity.changePassword(call, caller, body)
        return status(204, undefined)
      },
      {
        signedIn: true,
        ...contract(
          { body: model.passwordChange },
          { 204: nothing },
          {
            summary: 'Change the password; every other session ends',
            tags,
            faults: ['identity.password_wrong', 'identity.password_common', 'identity.busy'],
          },
        ),
      },
    )
    .get('/sessions', ({ call, caller, query }) => identity.listSessions(call, caller, toPlace(query)), {
      signedIn: true,
      ...contract(
        { query: closed(pageQuery) },
        { 200: model.sessionPage },
        { summary: 'Live sessions, newest first', tags },
      ),
    })
    .delete(
      '/sessions/:session_id',
      async ({ call, caller, params, status }) => {
        await identity.endSession(call, caller, params.session_id)
        return status(204, undefined)
      },
      {
        signedIn: true,
        ...contract(
          { params: model.sessionParams },
          { 204: nothing },
          { summary: 'End one session', tags, faults: ['session.not_found'] },
        ),
      },
    )
}
