import { Elysia } from 'elysia'
import type { Guard } from '../../access/guard/guard.ts'
import type { FaultCode } from '../../fault.ts'
import { contract } from '../../http/contract.ts'
import { createdAt } from '../../http/created.ts'
import { noContent } from '../../http/schema-types.ts'
import type { AccountRecovery } from './account-recovery.ts'
import * as model from './model.ts'

const tags = ['users']
const recoveryErrors = (...more: FaultCode[]): FaultCode[] => [
  'user.not_found',
  'user.deleted',
  'user.suspended',
  'mail.not_configured',
  'access.admins_only',
  'session.reauthentication_required',
  ...more,
]

type Dependencies = {
  accountRecovery: AccountRecovery
  guard: Guard
  addressOf: (request: Request) => string
}

/** New accounts and new passwords, which their owners get by mail. */
export const userRecoveryRoutes = ({ accountRecovery, guard, addressOf }: Dependencies) =>
  new Elysia({ prefix: '/api/v1/users' })
    .use(guard)
    .post(
      '',
      async ({ context, caller, body, request, set, status }) => {
        const made = await accountRecovery.invite(context, caller, body, addressOf(request))
        return status(
          201,
          createdAt(set, ({ id }) => `/api/v1/users/${id}`, made),
        )
      },
      {
        recently: 'operator',
        ...contract(
          { body: model.newAccount },
          { 201: model.account },
          {
            summary: 'Make an account for a person, who gets a mail to choose a password within 7 days',
            tags,
            errors: [
              'identity.email_taken',
              'mail.not_configured',
              'access.admins_only',
              'session.reauthentication_required',
            ],
          },
        ),
      },
    )
    .post(
      '/:user_id/invitation',
      async ({ context, caller, params, request, status }) => {
        await accountRecovery.inviteAgain(context, caller, params.user_id, addressOf(request))
        return status(204, undefined)
      },
      {
        recently: 'operator',
        ...contract(
          { params: model.accountParams },
          { 204: noContent },
          {
            summary: 'Send the mail to choose a password again, to an account without one. Earlier links are gone',
            tags,
            errors: recoveryErrors('user.has_password'),
          },
        ),
      },
    )
    .post(
      '/:user_id/password-reset',
      async ({ context, caller, params, request, status }) => {
        await accountRecovery.resetPassword(context, caller, params.user_id, addressOf(request))
        return status(204, undefined)
      },
      {
        recently: 'operator',
        ...contract(
          { params: model.accountParams },
          { 204: noContent },
          {
            summary:
              'End the password and every session of an account, and send its owner a mail to choose a new password',
            tags,
            errors: recoveryErrors(),
          },
        ),
      },
    )
