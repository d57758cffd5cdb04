import type { Changes } from '../../access/invalidation/committed-change.ts'
import type { Caller } from '../../access/principal.ts'
import { Fault } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { Clock } from '../../kit/clock.ts'
import { toPage } from '../../kit/cursor.ts'
import { canonicalEmail } from '../../kit/email.ts'
import type { Log } from '../../platform/log.ts'
import type { IdentityStore } from '../store.ts'
import type { Account, AccountChanges } from './model.ts'
import type { Operators } from './operators.ts'
import type { AccountFilter, AccountRow, UserStore } from './store.ts'

const toAccount = (row: AccountRow): Account => ({
  id: row.id,
  email: row.email,
  display_name: row.display_name,
  role: row.role,
  plan: row.plan,
  status: row.status,
  created_at: row.created_at.toISOString(),
  updated_at: row.updated_at.toISOString(),
})

/**
 * The accounts as operators of the platform see and change them; the route sees to it that callers are.
 *
 * Promise: when `update` has suspended an account, no session of it is good for anything, not even one that was opened or
 * refreshed meanwhile, and none of them comes back when the suspension is lifted. Whoever changes an account is an
 * operator until the change is committed and cannot be the one it takes that from, so no order of changes leaves a
 * platform without any; only closing one's own account can.
 */
export const createUsers = ({
  store,
  operators,
  sessions,
  changes,
  clock,
  log,
}: {
  store: UserStore
  operators: Pick<Operators, 'requireForNoKeyUpdate'>
  sessions: Pick<IdentityStore, 'endSessions'>
  changes: Changes
  clock: Clock
  log: Log
}) => ({
  list: async (context: RequestContext, { email: given, ...filter }: AccountFilter) => {
    // What is too long for an address is nobody's.
    const email = given === undefined ? undefined : (canonicalEmail(given) ?? '')
    const { items, next_cursor } = toPage(await store.list(context.deadline, { ...filter, email }), filter.limit)
    return { items: items.map(toAccount), next_cursor }
  },

  /** A closed account too, of which not much is left. */
  get: async (context: RequestContext, id: string): Promise<Account> => {
    const row = await store.find(context.deadline, id)
    if (row === undefined) throw new Fault('user.not_found')
    return toAccount(row)
  },

  update: async (context: RequestContext, caller: Caller, id: string, input: AccountChanges): Promise<Account> => {
    const resigns = input.status === 'suspended' || input.role === 'user'
    if (resigns && id === caller.userId) throw new Fault('user.own_account')
    const account = await changes.commitAndInvalidate(context.deadline, async (tx) => {
      const user = await operators.requireForNoKeyUpdate(tx, caller, id)
      if (user === undefined) throw new Fault('user.not_found')
      if (user.status === 'deleted') throw new Fault('user.deleted')
      if (input.status === 'suspended') {
        await sessions.endSessions(tx, id, 'suspended', new Date(clock.now()))
      }
      return toAccount(await store.update(tx, id, input))
    })
    const entry = { event: 'user.changed', user_id: id, by: caller.userId, request_id: context.requestId, ...input }
    log.info(entry, 'an operator changed an account')
    return account
  },
})

export type Users = ReturnType<typeof createUsers>
