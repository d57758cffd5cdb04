import type { Changes } from '../../access/invalidation/committed-change.ts'
import type { Caller } from '../../access/principal.ts'
import { audit } from '../../audit/audit.ts'
import { Fault, invalidInput } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { RecordSecurityEvent } from '../../http/security-events.ts'
import type { Clock } from '../../kit/clock.ts'
import { canonicalEmail, emailRequirement, storedSpellings } from '../../kit/email.ts'
import { newId } from '../../kit/id.ts'
import type { Mail } from '../../mail/service.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import type { OneTimeTokens } from '../one-time-tokens.ts'
import { tokenLife } from '../recovery/purposes.ts'
import type { FlowRequests } from '../recovery/requests.ts'
import type { IdentityStore } from '../store.ts'
import type { Account, NewAccount } from './model.ts'
import type { Operators } from './operators.ts'
import { toAccount } from './service.ts'
import type { AccountRow, UserStore } from './store.ts'

const dayMs = 86_400_000

type Invited = { readonly id: string; readonly email: string }

/**
 * How operators let a person in: a new account, or a new password.
 *
 * Guarantee: an operator never learns or chooses a password, nor sees the link: only the owner of the e-mail address gets it. A
 * change and its mail are committed together. Throws `mail.not_configured` where the deployment sends no mail.
 */
export const createAccountRecovery = ({
  store,
  users,
  operators,
  sessions,
  tokens,
  mail,
  requests,
  changes,
  clock,
  record,
}: {
  store: Pick<IdentityStore, 'insertUser' | 'requireFree'>
  users: Pick<UserStore, 'update' | 'removePassword' | 'hasPassword'>
  operators: Pick<Operators, 'requireForShare' | 'requireForNoKeyUpdate'>
  sessions: Pick<IdentityStore, 'endSessions'>
  tokens: Pick<OneTimeTokens, 'issue' | 'revoke'>
  mail: Pick<Mail, 'require' | 'linkOf' | 'enqueue'>
  requests: Pick<FlowRequests, 'enqueue'>
  changes: Changes
  clock: Clock
  record: RecordSecurityEvent
}) => {
  /** The links of earlier mails are gone. */
  const sendInvitation = async (tx: TransactionSql, { id, email }: Invited): Promise<void> => {
    await tokens.revoke(tx, id, ['account_invitation'])
    const life = tokenLife.account_invitation
    const { token, expiresAt } = await tokens.issue(tx, 'account_invitation', id, life, { email })
    await mail.enqueue(tx, {
      template: 'account_invitation',
      parameters: { link: mail.linkOf('account_invitation', token), days: life / dayMs },
      to: { email, userId: id },
      notAfter: expiresAt,
    })
  }

  /** Locks an active account for no key update, and the caller as an operator. */
  const lockActive = async (
    tx: TransactionSql,
    caller: Caller,
    id: string,
  ): Promise<AccountRow & { email: string }> => {
    const user = await operators.requireForNoKeyUpdate(tx, caller, id)
    if (user === undefined) throw new Fault('user.not_found')
    if (user.status === 'deleted' || user.email === null) throw new Fault('user.deleted')
    if (user.status === 'suspended') throw new Fault('user.suspended')
    return { ...user, email: user.email }
  }

  return {
    /** Makes an account without a password, whose owner gets a mail to choose one. Throws `identity.email_taken`. */
    invite: async (context: RequestContext, caller: Caller, input: NewAccount, address: string): Promise<Account> => {
      mail.require()
      const email = canonicalEmail(input.email)
      if (email === undefined) throw invalidInput('body', '/email', emailRequirement)
      const account = await changes.commitAndInvalidate(
        context.deadline,
        async (tx) => {
          await operators.requireForShare(tx, caller)
          await store.requireFree(tx, storedSpellings(input.email))
          const displayName = input.display_name ?? email.slice(0, email.indexOf('@')).slice(0, 100)
          const { id } = await store.insertUser(tx, { id: newId(), email, displayName, passwordHash: null })
          const made = await users.update(tx, id, { plan: input.plan ?? 'free' })
          audit.record(tx, {
            action: 'user.created',
            actor: caller,
            target: { type: 'user', id },
            after: { plan: made.plan },
            context,
          })
          await sendInvitation(tx, { id, email })
          return toAccount(made)
        },
        { grantsOnly: true },
      )
      record(context, 'user.invited', { address, user_id: account.id, by: caller.userId })
      return account
    },

    /** Sends the mail again, to an account that has no password yet. Throws `user.has_password`. */
    inviteAgain: async (context: RequestContext, caller: Caller, id: string, address: string): Promise<void> => {
      mail.require()
      await changes.commitAndInvalidate(
        context.deadline,
        async (tx) => {
          const { email } = await lockActive(tx, caller, id)
          if (await users.hasPassword(tx, id)) throw new Fault('user.has_password')
          audit.record(tx, { action: 'user.invited', actor: caller, target: { type: 'user', id }, context })
          await sendInvitation(tx, { id, email })
        },
        { grantsOnly: true },
      )
      record(context, 'user.invited', { address, user_id: id, by: caller.userId })
    },

    /**
     * For an account whose password others may know: the password is worth nothing from then on, every session ends, and the owner
     * gets a mail to choose a new one.
     */
    resetPassword: async (context: RequestContext, caller: Caller, id: string, address: string): Promise<void> => {
      mail.require()
      await changes.commitAndInvalidate(context.deadline, async (tx) => {
        const { email } = await lockActive(tx, caller, id)
        audit.record(tx, { action: 'user.password_reset', actor: caller, target: { type: 'user', id }, context })
        await users.removePassword(tx, id)
        await tokens.revoke(tx, id, ['password_reset'])
        await requests.enqueue(tx, { flow: 'password_reset', email }, id)
        await sessions.endSessions(tx, id, 'ended_by_operator', new Date(clock.now()))
      })
      record(context, 'user.password_reset', { address, user_id: id, by: caller.userId })
    },
  }
}

export type AccountRecovery = ReturnType<typeof createAccountRecovery>
