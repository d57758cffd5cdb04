import { Elysia } from 'elysia'
import type { Guard } from '../../access/guard/guard.ts'
import type { FaultCode } from '../../fault.ts'
import { bodyLimits } from '../../http/body.ts'
import { contract } from '../../http/contract.ts'
import { noContent } from '../../http/schema-types.ts'
import { passwordErrors } from '../model.ts'
import type { Identity } from '../service.ts'
import * as model from './model.ts'

const maxBytes = bodyLimits.auth
const tags = ['auth']
/** A route that needs no credential: its token is one, or it sends one to its owner. */
const open = { tags, maxBytes, open: true, budget: 'auth' } as const
const accepted = { status: 'accepted' as const }
const tokenErrors: readonly FaultCode[] = [
  'one_time_token.not_found',
  'one_time_token.gone',
  'identity.account_suspended',
]

type Dependencies = { identity: Identity; guard: Guard; addressOf: (request: Request) => string }

/** The flows that need a mail. No GET uses a token: mail scanners open every link. */
export const recoveryRoutes = ({ identity, guard, addressOf }: Dependencies) =>
  new Elysia({ prefix: '/api/v1/auth' })
    .use(guard)
    .post(
      '/verify-email',
      async ({ context, body, status }) => {
        await identity.requestMail(context, 'verify_email', body)
        return status(202, accepted)
      },
      {
        ...contract(
          { body: model.addressed },
          { 202: model.accepted },
          {
            summary: 'Send the mail that verifies an address again. The answer does not tell whether it has an account',
            ...open,
            errors: ['mail.not_configured'],
          },
        ),
      },
    )
    .post(
      '/verify-email/confirm',
      async ({ context, body, request, status }) => {
        await identity.verifyEmail(context, body.token, addressOf(request))
        return status(204, undefined)
      },
      {
        ...contract(
          { body: model.confirmation },
          { 204: noContent },
          { summary: 'Verify the address, within 24 hours', ...open, errors: tokenErrors },
        ),
      },
    )
    .post(
      '/password-reset',
      async ({ context, body, status }) => {
        await identity.requestMail(context, 'password_reset', body)
        return status(202, accepted)
      },
      {
        ...contract(
          { body: model.addressed },
          { 202: model.accepted },
          {
            summary: 'Send a mail to set a new password. The answer does not tell whether the address has an account',
            ...open,
            errors: ['mail.not_configured'],
          },
        ),
      },
    )
    .post(
      '/password-reset/confirm',
      async ({ context, body, request, status }) => {
        await identity.resetPassword(context, body, addressOf(request))
        return status(204, undefined)
      },
      {
        ...contract(
          { body: model.newPassword },
          { 204: noContent },
          {
            summary:
              'Set a new password, within 15 minutes. Every session ends, and signing in asks for the second factor as always',
            ...open,
            errors: [...tokenErrors, ...passwordErrors, 'identity.busy'],
          },
        ),
      },
    )
    .post(
      '/account-invitation/confirm',
      async ({ context, body, request, status }) => {
        await identity.acceptAccount(context, body, addressOf(request))
        return status(204, undefined)
      },
      {
        ...contract(
          { body: model.newPassword },
          { 204: noContent },
          {
            summary: 'Choose the password of an account that an operator made, within 7 days',
            ...open,
            errors: [...tokenErrors, ...passwordErrors, 'identity.busy'],
          },
        ),
      },
    )
    .post(
      '/email',
      async ({ context, caller, body, status }) => {
        await identity.requestEmailChange(context, caller, body)
        return status(202, accepted)
      },
      {
        recently: 'person',
        ...contract(
          { body: model.addressed },
          { 202: model.accepted },
          {
            summary:
              'Send a mail to a new address of your account. The address changes when its owner confirms it, within 24 hours',
            tags,
            maxBytes,
            budget: 'auth',
            errors: ['mail.not_configured', 'session.reauthentication_required'],
          },
        ),
      },
    )
    .post(
      '/email/confirm',
      async ({ context, body, request, status }) => {
        await identity.changeEmail(context, body.token, addressOf(request))
        return status(204, undefined)
      },
      {
        ...contract(
          { body: model.confirmation },
          { 204: noContent },
          {
            summary:
              'Confirm the new address. The former one gets a mail with which the change can be undone for 72 hours',
            ...open,
            errors: ['one_time_token.not_found', 'one_time_token.gone', 'identity.email_taken'],
          },
        ),
      },
    )
    .post(
      '/email/undo',
      async ({ context, body, request, status }) => {
        await identity.undoEmailChange(context, body.token, addressOf(request))
        return status(204, undefined)
      },
      {
        ...contract(
          { body: model.confirmation },
          { 204: noContent },
          {
            summary: 'Undo a change of the address, and end every session of the account',
            ...open,
            errors: tokenErrors,
          },
        ),
      },
    )
