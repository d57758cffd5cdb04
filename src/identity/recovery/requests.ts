import type { Changes } from '../../access/invalidation/committed-change.ts'
import type { Caller } from '../../access/principal.ts'
import { requireSignedInForShare } from '../../access/transactional-access.ts'
import { audit } from '../../audit/audit.ts'
import { invalidInput } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import { encodeBase64url } from '../../kit/base64url.ts'
import { canonicalEmail, emailRequirement } from '../../kit/email.ts'
import type { Limits } from '../../limits/limits.ts'
import type { Mail, Payloads } from '../../mail/service.ts'
import type { OutboundQueue } from '../../outbound/queue.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import type { AccountHash } from '../account-hash.ts'

/** A request for a mail. It is carried out apart from the request; see `createFlowHandler`. */
export type FlowRequest =
  | { readonly flow: 'verify_email' | 'password_reset'; readonly email: string }
  | { readonly flow: 'email_change'; readonly userId: string; readonly email: string }
  | {
      readonly flow: 'registration'
      readonly email: string
      readonly passwordHash: string
      readonly displayName: string
      /** Of the client. */
      readonly address: string
      readonly requestId: string
    }

export const flowKind = 'account_flow'

/**
 * Asking for mails.
 *
 * Guarantee: a request writes one row and answers, and does the same whether or not an account with the address exists: it neither
 * looks for one nor waits for what does. So neither the bytes of the answer nor its time tell. Requests are limited by the address
 * they ask for, and by the network address they come from.
 *
 * Throws `mail.not_configured` where the deployment sends no mail.
 */
export const createFlowRequests = ({
  changes,
  queue,
  payloads,
  mail,
  limits,
  hashOf,
}: {
  changes: Changes
  queue: Pick<OutboundQueue, 'enqueue'>
  payloads: Payloads
  mail: Pick<Mail, 'require' | 'isConfigured'>
  limits: Pick<Limits, 'authenticationTo'>
  hashOf: AccountHash
}) => {
  const hashedName = (email: string) => encodeBase64url(hashOf(email))

  const enqueue = (tx: TransactionSql, request: FlowRequest, userId?: string): Promise<void> => {
    // While an attempt to send the same is under way, another one would only send a second mail.
    const dedupeKey =
      request.flow === 'registration' ? {} : { dedupeKey: `${request.flow} ${hashedName(request.email)}` }
    return queue.enqueue(tx, { kind: flowKind, payload: payloads.seal(request), userId, ...dedupeKey })
  }

  const canonical = (email: string): string => {
    const found = canonicalEmail(email)
    if (found === undefined) throw invalidInput('body', '/email', emailRequirement)
    return found
  }

  const commit = (context: RequestContext, work: (tx: TransactionSql) => Promise<void>): Promise<void> =>
    changes.commitAndInvalidate(context.deadline, work, { grantsOnly: true })

  return {
    enqueue,

    /** Asks for a mail with a link that verifies the address, or that sets a new password. */
    request: async (
      context: RequestContext,
      flow: 'verify_email' | 'password_reset',
      input: { email: string },
    ): Promise<void> => {
      mail.require()
      const email = canonical(input.email)
      const account = `mail ${flow} ${hashedName(email)}`
      await limits.authenticationTo(context, { account, address: context.limitedAs })
      await commit(context, (tx) => {
        // Whose address it is, if anyone's, is not looked up here.
        audit.record(tx, {
          action: flow === 'password_reset' ? 'password.reset_requested' : 'email.verification_requested',
          actor: 'anonymous',
          target: { type: 'user', id: null },
          context,
        })
        return enqueue(tx, { flow, email })
      })
    },

    /** Asks for a mail to a new address of the caller's account. */
    requestEmailChange: async (context: RequestContext, caller: Caller, input: { email: string }): Promise<void> => {
      mail.require()
      const email = canonical(input.email)
      const account = `mail email_change ${caller.userId}`
      await limits.authenticationTo(context, { account, address: context.limitedAs })
      await commit(context, async (tx) => {
        await requireSignedInForShare(tx, caller)
        audit.record(tx, {
          action: 'email.change_requested',
          actor: caller,
          target: { type: 'user', id: caller.userId },
          context,
        })
        await enqueue(tx, { flow: 'email_change', userId: caller.userId, email }, caller.userId)
      })
    },

    /** For a new account, in its transaction. Does nothing where the deployment sends no mail. */
    verifyLater: async (tx: TransactionSql, user: { id: string; email: string }): Promise<void> => {
      if (mail.isConfigured) await enqueue(tx, { flow: 'verify_email', email: user.email }, user.id)
    },

    /** A registration whose account is made apart from the request. */
    registerLater: (
      context: RequestContext,
      given: Omit<Extract<FlowRequest, { flow: 'registration' }>, 'flow' | 'requestId'>,
    ): Promise<void> =>
      commit(context, (tx) => {
        audit.record(tx, {
          action: 'account.registration_requested',
          actor: 'anonymous',
          target: { type: 'user', id: null },
          context,
        })
        return enqueue(tx, { ...given, flow: 'registration', requestId: context.requestId })
      }),
  }
}

export type FlowRequests = ReturnType<typeof createFlowRequests>
