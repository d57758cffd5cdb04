import type { Changes } from '../../access/invalidation/committed-change.ts'
import type { Caller } from '../../access/principal.ts'
import { requireSignedInForShare } from '../../access/transactional-access.ts'
import { audit } from '../../audit/audit.ts'
import { Fault } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { RecordSecurityEvent } from '../../http/security-events.ts'
import type { Clock } from '../../kit/clock.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import type { AccountLifecycle } from '../accounts.ts'
import type { Sessions } from '../sessions.ts'
import type { SignInProtection } from '../sign-in-protection.ts'
import type { IdentityStore } from '../store.ts'
import type { Erasure } from './erasure.ts'

/** Throws `identity.owns_teams`. */
const requireHandedOver = (teams: readonly { id: string; name: string }[]): void => {
  if (teams.length > 0) throw new Fault('identity.owns_teams', { extensions: { teams } })
}

/**
 * Closing one's account.
 *
 * Guarantee: every session is refused from the next request on, and nothing in the database names the person any more once the
 * account is erased: at once for a small account, else within minutes (`Erasure`).
 */
export const createClosing =
  ({
    store,
    changes,
    sessions,
    protection,
    lifecycle,
    erasure,
    clock,
    record,
  }: {
    store: Pick<IdentityStore, 'findUser' | 'closeAccount'>
    changes: Changes
    sessions: Pick<Sessions, 'endAll'>
    protection: Pick<SignInProtection, 'forgetAccount' | 'forgetNotices'>
    lifecycle: AccountLifecycle
    erasure: Pick<Erasure, 'begin' | 'eraseNow'>
    clock: Clock
    record: RecordSecurityEvent
  }) =>
  /**
   * Refused while the user owns a team with another active member; the other teams of the user pass to a suspended member or are
   * deleted, by a trigger. Generations are cancelled in batches, each committed, before the closing transaction: a request that
   * runs out of time keeps its progress, and a retry continues from there. Content is erased after that transaction, so a refusal
   * leaves it intact.
   */
  async (context: RequestContext, caller: Caller, address: string): Promise<void> => {
    const { userId } = caller
    requireHandedOver(await context.deadline.run(lifecycle.teamsToHandOver(userId)))
    const cancelBatch = (tx: TransactionSql) => lifecycle.cancelGenerations(tx, userId)
    while (await changes.commitAndInvalidate(context.deadline, cancelBatch)) {}
    await changes.commitAndInvalidate(context.deadline, async (tx) => {
      // First: it needs the email address, which closing erases, and its lock on the account bars new generations.
      await lifecycle.lockTeams(tx, userId)
      await requireSignedInForShare(tx, caller)
      requireHandedOver(await lifecycle.teamsToHandOver(userId, tx))
      while (await cancelBatch(tx)) {}
      const user = await store.findUser(context.deadline, userId, tx)
      await lifecycle.closing(tx, userId)
      // Before the erasure, which deletes the address of this event as well.
      audit.record(tx, { action: 'account.closed', actor: caller, target: { type: 'user', id: userId }, context })
      await store.closeAccount(tx, userId)
      await lifecycle.closed(tx, userId)
      await sessions.endAll(tx, userId, 'account_closed')
      await erasure.begin(tx, userId, new Date(clock.now()))
      // By a hash of the address, which is not known any more once the account is closed.
      await protection.forgetAccount(tx, user?.email ?? '')
      await protection.forgetNotices(tx, userId)
    })
    record(context, 'account.closed', { address, user_id: userId })
    await erasure.eraseNow(userId, context.deadline)
  }
