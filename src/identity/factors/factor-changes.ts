import type { Changes } from '../../access/invalidation/committed-change.ts'
import type { Caller } from '../../access/principal.ts'
import { requireSignedInForShare } from '../../access/transactional-access.ts'
import { audit } from '../../audit/audit.ts'
import { Fault, type FaultCode } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { RecordSecurityEvent } from '../../http/security-events.ts'
import type { Clock } from '../../kit/clock.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import type { IdentityStore, UserRow } from '../store.ts'
import type { FactorNoticeKind, FactorNotices } from './factor-notices.ts'
import { hashRecoveryCode, newRecoveryCodes } from './recovery-codes.ts'
import type { FactorStore } from './store.ts'

type Dependencies = {
  store: FactorStore
  users: Pick<IdentityStore, 'findUser'>
  notices: FactorNotices
  changes: Changes
  clock: Clock
  record: RecordSecurityEvent
  sendsMail: boolean
}

/** A change of factors, with what it is told to the owner as and what the log calls it. */
type Change = {
  readonly notice: FactorNoticeKind
  readonly event: 'totp.enabled' | 'totp.disabled' | 'passkey.added' | 'passkey.removed' | 'recovery_codes.replaced'
  /** Undefined where the account itself is changed. */
  readonly passkeyId?: string
}

/** What all changes of factors have in common: their locks, recovery codes, notices and events. */
export const createFactorChanges = ({ store, users, notices, changes, clock, record, sendsMail }: Dependencies) => {
  const requireProven = (isVerified: boolean): void => {
    if (sendsMail && !isVerified) throw new Fault('identity.email_not_verified')
  }

  /** Throws `identity.email_not_verified` where the owner could verify the address and has not. */
  const requireProvenOwner = async (context: RequestContext, { userId }: Caller): Promise<UserRow> => {
    const user = await users.findUser(context.deadline, userId)
    if (user?.status !== 'active') throw new Fault('identity.not_signed_in')
    requireProven(user.email_verified_at !== null)
    return user
  }

  const notify = (tx: TransactionSql, userId: string, kind: FactorNoticeKind, address: string) =>
    notices.add(tx, { userId, kind, address }, new Date(clock.now()))

  /** Runs a change of the factors of the caller, under the locks that it needs. */
  const change = async <T>(
    context: RequestContext,
    caller: Caller,
    { notice, event, passkeyId }: Change,
    address: string,
    work: (tx: TransactionSql) => Promise<T>,
  ): Promise<T> => {
    const result = await changes.commitAndInvalidate(context.deadline, async (tx) => {
      if (!(await store.lockForChange(tx, caller.userId))) throw new Fault('identity.not_signed_in')
      await requireSignedInForShare(tx, caller)
      const done = await work(tx)
      audit.record(tx, {
        action: event,
        actor: caller,
        target: passkeyId === undefined ? { type: 'user', id: caller.userId } : { type: 'passkey', id: passkeyId },
        context,
      })
      await notify(tx, caller.userId, notice, address)
      return done
    })
    record(context, event, { address, user_id: caller.userId, session_id: caller.sessionId })
    return result
  }

  const issueRecoveryCodes = async (tx: TransactionSql, userId: string): Promise<string[]> => {
    const codes = newRecoveryCodes()
    const hashes = codes.map((code) => hashRecoveryCode(userId, code))
    await store.replaceRecoveryCodes(tx, userId, hashes, new Date(clock.now()))
    return codes
  }

  /** Adds a factor of an owner whose address is proven. With the first one come recovery codes. */
  const add = async <T>(
    tx: TransactionSql,
    { userId, sessionId }: Caller,
    work: () => Promise<T>,
  ): Promise<{ added: T; recoveryCodes: string[] | null }> => {
    requireProven(await store.hasVerifiedAddress(tx, userId))
    const isFirst = !(await store.hasSecondFactor(tx, userId))
    const added = await work()
    if (!isFirst) return { added, recoveryCodes: null }
    await store.expireAuthentications(tx, userId, sessionId)
    return { added, recoveryCodes: await issueRecoveryCodes(tx, userId) }
  }

  /** Removes a factor. With the last one the recovery codes go. */
  const remove = async (
    tx: TransactionSql,
    { userId }: Caller,
    absent: FaultCode & ('totp.not_found' | 'passkey.not_found'),
    work: () => Promise<boolean>,
  ): Promise<void> => {
    if (!(await work())) throw new Fault(absent)
    if (!(await store.hasSecondFactor(tx, userId))) await store.removeAll(tx, userId)
  }

  return { requireProvenOwner, notify, change, issueRecoveryCodes, add, remove }
}

export type FactorChanges = ReturnType<typeof createFactorChanges>
