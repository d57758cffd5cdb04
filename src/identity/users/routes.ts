import { Elysia } from 'elysia'
import type { Guard } from '../../access/guard/guard.ts'
import { contract } from '../../http/contract.ts'
import { noContent, toPlace } from '../../http/schema-types.ts'
import type { Identity } from '../service.ts'
import * as model from './model.ts'
import type { Users } from './service.ts'
import type { SignInFailuresService } from './sign-in-failures.ts'

const tags = ['users']

type Dependencies = {
  users: Users
  identity: Pick<Identity, 'factors'>
  signInFailures: SignInFailuresService
  guard: Guard
  addressOf: (request: Request) => string
}

export const userRoutes = ({ users, identity, signInFailures, guard, addressOf }: Dependencies) =>
  new Elysia({ prefix: '/api/v1/users' })
    .use(guard)
    .get(
      '',
      ({ context, query }) => users.list(context, { ...toPlace(query), email: query.email, status: query.status }),
      {
        operator: true,
        ...contract(
          { query: model.accountQuery },
          { 200: model.accountPage },
          {
            summary: 'List accounts, newest first, including deleted ones',
            tags,
            scope: 'users:read',
            errors: ['access.admins_only'],
          },
        ),
      },
    )
    .get('/:user_id', ({ context, params }) => users.get(context, params.user_id), {
      operator: true,
      ...contract(
        { params: model.accountParams },
        { 200: model.account },
        {
          summary: 'Read an account, even a deleted one',
          tags,
          scope: 'users:read',
          errors: ['user.not_found', 'access.admins_only'],
        },
      ),
    })
    .patch(
      '/:user_id',
      ({ context, caller, params, body, request }) =>
        users.update(context, caller, params.user_id, body, addressOf(request)),
      {
        recently: 'operator',
        ...contract(
          { params: model.accountParams, body: model.accountChanges },
          { 200: model.account },
          {
            summary:
              'Change the status, role or plan of an account, or whether its e-mail address is verified. Suspending it ends all its sessions and passes the teams it owns to their oldest admin, else to the oldest active member of the highest role',
            tags,
            errors: [
              'user.not_found',
              'user.deleted',
              'user.own_account',
              'access.admins_only',
              'session.reauthentication_required',
            ],
          },
        ),
      },
    )
    .delete(
      '/:user_id/second-factors',
      async ({ context, caller, params, request, status }) => {
        await identity.factors.removeAllByOperator(context, caller, params.user_id, addressOf(request))
        return status(204, undefined)
      },
      {
        recently: 'operator',
        ...contract(
          { params: model.accountParams },
          { 204: noContent },
          {
            summary:
              'Remove all second factors of an account whose owner has lost them, and end its sessions. Make sure first of who asks',
            tags,
            errors: ['user.not_found', 'access.admins_only', 'session.reauthentication_required'],
          },
        ),
      },
    )
    .delete(
      '/:user_id/sessions',
      async ({ context, caller, params, request, status }) => {
        await users.endSessions(context, caller, params.user_id, addressOf(request))
        return status(204, undefined)
      },
      {
        recently: 'operator',
        ...contract(
          { params: model.accountParams },
          { 204: noContent },
          {
            summary: 'End every session of an account',
            tags,
            errors: ['user.not_found', 'access.admins_only', 'session.reauthentication_required'],
          },
        ),
      },
    )
    .get('/:user_id/sign-in-failures', ({ context, params }) => signInFailures.list(context, params.user_id), {
      operator: true,
      ...contract(
        { params: model.accountParams },
        { 200: model.signInFailures },
        {
          summary: 'List where sign-ins to an account failed, and which sources pause',
          tags,
          errors: ['user.not_found', 'access.admins_only'],
        },
      ),
    })
    .delete(
      '/:user_id/sign-in-failures',
      async ({ context, caller, params, request, status }) => {
        await signInFailures.clear(context, caller, params.user_id, addressOf(request))
        return status(204, undefined)
      },
      {
        recently: 'operator',
        ...contract(
          { params: model.accountParams },
          { 204: noContent },
          {
            summary: 'Forget the failed sign-ins to an account, and end its pauses',
            tags,
            errors: ['user.not_found', 'access.admins_only', 'session.reauthentication_required'],
          },
        ),
      },
    )
