import type { Changes } from '../../access/invalidation/committed-change.ts'
import { audit } from '../../audit/audit.ts'
import { Fault } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { RecordSecurityEvent } from '../../http/security-events.ts'
import type { Clock } from '../../kit/clock.ts'
import { timeText } from '../../kit/date-time.ts'
import { storedSpellings } from '../../kit/email.ts'
import type { Mail } from '../../mail/service.ts'
import type { AccountLifecycle } from '../accounts.ts'
import type { OneTimeTokens, TokenSubject } from '../one-time-tokens.ts'
import type { Sessions } from '../sessions.ts'
import { requireUnreserved } from '../store.ts'
import { type TokenPurpose, tokenLife } from './purposes.ts'
import type { RecoveryStore } from './store.ts'
import { createTokenLock, requireSameAddress } from './token-lock.ts'

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
 */
export const createConfirmations = ({
  store,
  tokens,
  mail,
  changes,
  sessions,
  verified,
  clock,
  record,
}: {
  store: RecoveryStore
  tokens: OneTimeTokens
  mail: Pick<Mail, 'enqueue' | 'linkOf'>
  changes: Changes
  sessions: Pick<Sessions, 'endAll'>
  verified: AccountLifecycle['verified']
  clock: Clock
  record: RecordSecurityEvent
}) => {
  const now = () => new Date(clock.now())
  const time = () => timeText(clock.now())

  const lockFor = createTokenLock({ store, tokens })

  const verifyEmail = async (context: RequestContext, token: string, address: string): Promise<void> => {
    const userId = await changes.commitAndInvalidate(
      context.deadline,
      async (tx) => {
        const locked = await lockFor(tx, 'verify_email', token)
        requireSameAddress(locked)
        const { id } = locked.user
        audit.record(tx, { action: 'email.verified', actor: { userId: id }, target: { type: 'user', id }, context })
        await tokens.revoke(tx, id, ['verify_email'])
        await store.setVerified(tx, id, now())
        await verified(tx, id)
        return id
      },
      { grantsOnly: true },
    )
    record(context, 'email.verified', { address, user_id: userId })
  }

  const changeEmail = async (context: RequestContext, token: string, address: string): Promise<void> => {
    const userId = await changes.commitAndInvalidate(context.deadline, async (tx) => {
      const { user, email: former, subject } = await lockFor(tx, 'email_change', token)
      const email = newAddressOf(subject)
      const { id } = user
      const spellings = storedSpellings(email)
      const holder = await store.findHolder(tx, spellings)
      if (holder !== undefined && holder.id !== id) throw new Fault('identity.email_taken')
      audit.record(tx, { action: 'email.changed', actor: { userId: id }, target: { type: 'user', id }, context })
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
      audit.record(tx, { action: 'email.restored', actor: { userId: id }, target: { type: 'user', id }, context })
      await tokens.revoke(tx, id, sentToMailbox)
      // Of several changes the first one is undone by its own link: later ones may be those of an intruder.
      await tokens.revokeIssuedSince(tx, id, ['email_undo'], subject.createdAt)
      // The reservation of the address lasts as long as the token.
      await store.setEmail(tx, id, email, now())
      await store.release(tx, email, id)
      await sessions.endAll(tx, id, 'ended_by_user')
      await mail.enqueue(tx, { template: 'email_restored', parameters: { time: time() }, to: { email, userId: id } })
      return id
    })
    record(context, 'email.restored', { address, user_id: userId })
  }

  return { verifyEmail, changeEmail, undoEmailChange }
}

export type Confirmations = ReturnType<typeof createConfirmations>
