import type { Changes } from '../../access/invalidation/committed-change.ts'
import type { Caller } from '../../access/principal.ts'
import { audit } from '../../audit/audit.ts'
import type { AuditValues } from '../../audit/event.ts'
import { Fault } from '../../fault.ts'
import { requireNarrowing } from '../../http/narrowing.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { RecordSecurityEvent } from '../../http/security-events.ts'
import type { Clock } from '../../kit/clock.ts'
import { toPage } from '../../kit/cursor.ts'
import { storedSpellings } from '../../kit/email.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import type { IdentityStore } from '../store.ts'
import type { Account, AccountChanges } from './model.ts'
import type { Operators } from './operators.ts'
import type { AccountFilter, AccountRow, UserStore } from './store.ts'

export const toAccount = (row: AccountRow): Account => ({
  id: row.id,
  email: row.email,
  display_name: row.display_name,
  role: row.role,
  plan: row.plan,
  limits: row.limits as Account['limits'],
  status: row.status,
  created_at: row.created_at.toISOString(),
  email_verified: row.email_verified_at !== null,
  second_factor: row.second_factor,
  updated_at: row.updated_at.toISOString(),
})

/** Whether a change of an account only takes access away. */
const takesAway = ({ status, role, email_verified, ...others }: AccountChanges): boolean =>
  status !== 'active' && role !== 'admin' && email_verified !== true && Object.keys(others).length === 0

/**
 * Accounts as the operators of the platform see and change them. The route admits only operators.
 *
 * Guarantee: after `update` has suspended an account, every session of it is refused, including those opened or refreshed
 * concurrently, and lifting the suspension revives none of them. Its teams have passed to other members, and lifting the
 * suspension does not give them back. The caller's role is rechecked inside the transaction, and
 * operators cannot suspend or demote themselves, so no sequence of updates leaves the platform without an operator. Only
 * closing one's own account can.
 */
export const createUsers = ({
  store,
  operators,
  sessions,
  changes,
  verified,
  clock,
  record,
}: {
  store: UserStore
  operators: Pick<Operators, 'requireForNoKeyUpdate'>
  sessions: Pick<IdentityStore, 'endSessions'>
  changes: Changes
  /** Gives an account whose e-mail address is verified the credits that were pending. */
  verified: (tx: TransactionSql, userId: string) => Promise<void>
  clock: Clock
  record: RecordSecurityEvent
}) => ({
  list: async (
    context: RequestContext,
    { email: requested, ...filter }: Omit<AccountFilter, 'spellings'> & { readonly email: string | undefined },
  ) => {
    const spellings = requested === undefined ? undefined : storedSpellings(requested)
    const { items, next_cursor } = toPage(await store.list(context.deadline, { ...filter, spellings }), filter.limit)
    return { items: items.map(toAccount), next_cursor }
  },

  /** Also returns closed accounts, without their personal data. */
  get: async (context: RequestContext, id: string): Promise<Account> => {
    const row = await store.find(context.deadline, id)
    if (row === undefined) throw new Fault('user.not_found')
    return toAccount(row)
  },

  update: async (
    context: RequestContext,
    caller: Caller,
    id: string,
    input: AccountChanges,
    address: string,
  ): Promise<Account> => {
    const losesOperatorRole = input.status === 'suspended' || input.role === 'user'
    if (losesOperatorRole && id === caller.userId) throw new Fault('user.own_account')
    const account = await changes.commitAndInvalidate(context.deadline, async (tx) => {
      const user = await operators.requireForNoKeyUpdate(tx, caller, id)
      if (user === undefined) throw new Fault('user.not_found')
      if (user.status === 'deleted') throw new Fault('user.deleted')
      requireNarrowing(context, takesAway(input))
      // A trigger passes the teams of a suspended owner to another member. Sessions are locked after teams.
      const { email_verified: isVerified, ...columns } = input
      const verifiedAt = isVerified === true ? (user.email_verified_at ?? new Date(clock.now())) : null
      const updated = await store.update(tx, id, {
        ...columns,
        ...(isVerified !== undefined && { email_verified_at: verifiedAt }),
      })
      const changed = (row: AccountRow): AuditValues => ({
        ...(input.role !== undefined && { role: row.role }),
        ...(input.plan !== undefined && { plan: row.plan }),
        ...(input.status !== undefined && { status: row.status }),
        ...(input.limits !== undefined && { limits: JSON.stringify(row.limits) }),
        ...(isVerified !== undefined && { email_verified: row.email_verified_at !== null }),
      })
      audit.record(tx, {
        action: 'user.changed',
        actor: caller,
        target: { type: 'user', id },
        before: changed(user),
        after: changed(updated),
        context,
      })
      if (input.status === 'suspended') await sessions.endSessions(tx, id, 'suspended', new Date(clock.now()))
      if (isVerified === true) await verified(tx, id)
      return toAccount(updated)
    })
    const { limits, ...changed } = input
    const entry = limits === undefined ? changed : { ...changed, limits: JSON.stringify(limits) }
    record(context, 'user.changed', { address, user_id: id, by: caller.userId, ...entry })
    return account
  },

  /** Ends every session of an account, whose owner signs in again. Its devices stay known. */
  endSessions: async (context: RequestContext, caller: Caller, id: string, address: string): Promise<void> => {
    await changes.commitAndInvalidate(context.deadline, async (tx) => {
      const user = await operators.requireForNoKeyUpdate(tx, caller, id)
      if (user === undefined || user.status === 'deleted') throw new Fault('user.not_found')
      audit.record(tx, { action: 'user.sessions_ended', actor: caller, target: { type: 'user', id }, context })
      await sessions.endSessions(tx, id, 'ended_by_operator', new Date(clock.now()))
    })
    record(context, 'user.sessions_ended', { address, user_id: id, by: caller.userId })
  },
})

export type Users = ReturnType<typeof createUsers>
