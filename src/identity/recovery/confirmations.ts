import type { Changes } from '../../access/invalidation/committed-change.ts'
import { Fault } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { RecordSecurityEvent } from '../../http/security-events.ts'
import type { Clock } from '../../kit/clock.ts'
import { timeText } from '../../kit/date-time.ts'
import { storedSpellings } from '../../kit/email.ts'
import type { Mail } from '../../mail/service.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import type { AccountHash } from '../account-hash.ts'
import type { AccountLifecycle } from '../accounts.ts'
import type { OneTimeTokens, TokenSubject } from '../one-time-tokens.ts'
import type { PasswordRules } from '../password-rules.ts'
import type { Passwords } from '../passwords.ts'
import type { Sessions } from '../sessions.ts'
import type { SignInStore } from '../sign-in-store.ts'
import { requireUnreserved, type UserRow } from '../store.ts'
import { type TokenPurpose, tokenLife } from './purposes.ts'
import type { RecoveryStore } from './store.ts'

type Locked = { readonly user: UserRow; readonly email: string; readonly subject: TokenSubject }

/** The token was sent to the address that the account has now. */
const requireSameAddress = ({ email, subject }: Locked): void => {
  if (subject.data['email'] !== email) throw new Fault('one_time_token.gone')
}

const newAddressOf = ({ data }: TokenSubject): string => {
  const { email } = data
  if (typeof email !== 'string') throw new Fault('one_time_token.gone')
  return email
}

const sentToMailbox: readonly TokenPurpose[] = ['verify_email', 'password_reset', 'email_change', 'account_invitation']

/**
 * The effects of links in mails, once their owner confirms them. Each uses its token in the transaction of the change: of any
 * number of concurrent uses one succeeds.
 *
 * Throws `one_time_token.not_found` or `one_time_token.gone`; gone is also a token for an address that the account no longer has.
 *
 * A reset opens no session: the owner signs in with the new password, and is asked for a second factor like at every sign-in.
 */
export const createConfirmations = ({
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
  mail: Pick<Mail, 'enqueue' | 'linkOf'>
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
  const now = () => new Date(clock.now())
  const time = () => timeText(clock.now())

  /** The account of a token, locked before the token is used. */
  const lockFor = async (tx: TransactionSql, purpose: TokenPurpose, token: string): Promise<Locked> => {
    const { userId } = await tokens.find(tx, purpose, token)
    const user = userId === null ? undefined : await store.lockAccount(tx, userId)
    if (user?.status === 'suspended') throw new Fault('identity.account_suspended')
    if (user?.status !== 'active' || user.email === null) throw new Fault('one_time_token.gone')
    const subject = await tokens.use(tx, purpose, token)
    return { user, email: user.email, subject }
  }

  const verifyEmail = async (context: RequestContext, token: string, address: string): Promise<void> => {
    const userId = await changes.commitAndInvalidate(
      context.deadline,
      async (tx) => {
        const locked = await lockFor(tx, 'verify_email', token)
        requireSameAddress(locked)
        const { id } = locked.user
        await tokens.revoke(tx, id, ['verify_email'])
        await store.setVerified(tx, id, now())
        await verified(tx, id)
        return id
      },
      { grantsOnly: true },
    )
    record(context, 'email.verified', { address, user_id: userId })
  }

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
      await store.setPassword(tx, id, passwordHash, now())
      if (purpose === 'account_invitation') await registered(tx, { userId: id, email: locked.email, address })
      await verified(tx, id)
      await sessions.endAll(tx, id, 'password_reset')
      // Attempts of others must not keep the owner out, who has proved to be the owner.
      await failures.clearAll(tx, hashOf(locked.email))
      if (purpose === 'password_reset')
        await mail.enqueue(tx, { template: 'password_changed', parameters: { time: time() }, to: { userId: id } })
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

  const changeEmail = async (context: RequestContext, token: string, address: string): Promise<void> => {
    const userId = await changes.commitAndInvalidate(context.deadline, async (tx) => {
      const { user, email: former, subject } = await lockFor(tx, 'email_change', token)
      const email = newAddressOf(subject)
      const { id } = user
      const spellings = storedSpellings(email)
      const holder = await store.findHolder(tx, spellings)
      if (holder !== undefined && holder.id !== id) throw new Fault('identity.email_taken')
      await tokens.revoke(tx, id, sentToMailbox)
      await store.setEmail(tx, id, email, now())
      await store.release(tx, email, id)
      // After the change, which waits for a transaction that takes the address away from another account.
      await requireUnreserved(tx, spellings)
      const undo = await tokens.issue(tx, 'email_undo', id, tokenLife.email_undo, { email: former })
      await store.reserve(tx, former, id, undo.expiresAt)
      await verified(tx, id)
      await mail.enqueue(tx, { template: 'email_changed', parameters: { time: time() }, to: { email, userId: id } })
      await mail.enqueue(tx, {
        template: 'email_change_undo',
        parameters: {
          link: mail.linkOf('email_undo', undo.token),
          hours: tokenLife.email_undo / 3_600_000,
          time: time(),
        },
        to: { email: former, userId: id },
        notAfter: undo.expiresAt,
      })
      return id
    })
    record(context, 'email.changed', { address, user_id: userId })
  }

  const undoEmailChange = async (context: RequestContext, token: string, address: string): Promise<void> => {
    const userId = await changes.commitAndInvalidate(context.deadline, async (tx) => {
      const { user, subject } = await lockFor(tx, 'email_undo', token)
      const email = newAddressOf(subject)
      const { id } = user
      await tokens.revoke(tx, id, sentToMailbox)
      // Of several changes the first one is undone by its own link: later ones may be those of an intruder.
      await tokens.revokeIssuedSince(tx, id, ['email_undo'], subject.createdAt)
      await store.setEmail(tx, id, email, now())
      await store.release(tx, email, id)
      await sessions.endAll(tx, id, 'ended_by_user')
      await mail.enqueue(tx, { template: 'email_restored', parameters: { time: time() }, to: { email, userId: id } })
      return id
    })
    record(context, 'email.restored', { address, user_id: userId })
  }

  return { verifyEmail, resetPassword, acceptAccount, changeEmail, undoEmailChange }
}

export type Confirmations = ReturnType<typeof createConfirmations>
