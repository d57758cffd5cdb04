import type { Changes } from '../../access/invalidation/committed-change.ts'
import { audit } from '../../audit/audit.ts'
import { Fault } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { RecordSecurityEvent } from '../../http/security-events.ts'
import type { Clock } from '../../kit/clock.ts'
import { timeText } from '../../kit/date-time.ts'
import type { Mail } from '../../mail/service.ts'
import type { AccountHash } from '../account-hash.ts'
import type { AccountLifecycle } from '../accounts.ts'
import type { OneTimeTokens } from '../one-time-tokens.ts'
import type { PasswordRules } from '../password-rules.ts'
import type { Passwords } from '../passwords.ts'
import type { Sessions } from '../sessions.ts'
import type { SignInStore } from '../sign-in-store.ts'
import type { RecoveryStore } from './store.ts'
import { createTokenLock, requireSameAddress } from './token-lock.ts'

/**
 * Passwords that are chosen by the link in a mail: in place of a forgotten one, and the first one of an invited person.
 *
 * Guarantee: of any number of concurrent uses of a token one succeeds. No session is opened: the owner signs in with the new
 * password, and is asked for a second factor like at every sign-in. Throws as `createConfirmations`.
 */
export const createNewPasswords = ({
  store,
  tokens,
  mail,
  changes,
  passwords,
  passwordRules,
  sessions,
  failures,
  hashOf,
  registered,
  verified,
  clock,
  record,
}: {
  store: RecoveryStore
  tokens: OneTimeTokens
  mail: Pick<Mail, 'enqueue'>
  changes: Changes
  passwords: Pick<Passwords, 'inTurn'>
  passwordRules: PasswordRules
  sessions: Pick<Sessions, 'endAll'>
  failures: Pick<SignInStore, 'clearAll'>
  hashOf: AccountHash
  registered: AccountLifecycle['registered']
  verified: AccountLifecycle['verified']
  clock: Clock
  record: RecordSecurityEvent
}) => {
  const lockFor = createTokenLock({ store, tokens })

  /** The account of a token after its password was set. The address was proven by the mail that the token came with. */
  const setPassword = async (
    context: RequestContext,
    purpose: 'password_reset' | 'account_invitation',
    input: { token: string; new_password: string },
    address: string,
  ): Promise<string> => {
    // Before the hash, which costs more: a token that cannot be used gets none.
    const { userId, data } = await changes.commitAndInvalidate(
      context.deadline,
      (tx) => tokens.find(tx, purpose, input.token),
      { grantsOnly: true },
    )
    await passwordRules.require(input.new_password, String(data['email'] ?? ''), '/new_password')
    await passwordRules.refuseBreached(input.new_password, context.deadline)
    const requester = { address, account: `reset ${userId}` }
    const passwordHash = await passwords.inTurn(requester, context.deadline, ({ hash }) => hash(input.new_password))
    return changes.commitAndInvalidate(context.deadline, async (tx) => {
      const locked = await lockFor(tx, purpose, input.token)
      requireSameAddress(locked)
      const { id } = locked.user
      // Its owner has chosen a password since, by a reset.
      if (purpose === 'account_invitation' && locked.user.password_hash !== null) throw new Fault('one_time_token.gone')
      await tokens.revoke(tx, id, ['password_reset', 'account_invitation', 'verify_email'])
      audit.record(tx, {
        action: purpose === 'password_reset' ? 'password.reset' : 'account.accepted',
        actor: { userId: id },
        target: { type: 'user', id },
        context,
      })
      await store.setPassword(tx, id, passwordHash, new Date(clock.now()))
      if (purpose === 'account_invitation') await registered(tx, { userId: id, email: locked.email, address })
      await verified(tx, id)
      await sessions.endAll(tx, id, 'password_reset')
      // Attempts of others must not keep the owner out, who has proved to be the owner.
      await failures.clearAll(tx, hashOf(locked.email))
      if (purpose === 'password_reset')
        await mail.enqueue(tx, {
          template: 'password_changed',
          parameters: { time: timeText(clock.now()) },
          to: { userId: id },
        })
      return id
    })
  }

  const resetPassword = async (
    context: RequestContext,
    input: { token: string; new_password: string },
    address: string,
  ): Promise<void> => {
    const userId = await setPassword(context, 'password_reset', input, address)
    record(context, 'password.reset', { address, user_id: userId })
  }

  /** The first password of an account that an operator made. */
  const acceptAccount = async (
    context: RequestContext,
    input: { token: string; new_password: string },
    address: string,
  ): Promise<void> => {
    const userId = await setPassword(context, 'account_invitation', input, address)
    record(context, 'account.accepted', { address, user_id: userId })
  }

  return { resetPassword, acceptAccount }
}
