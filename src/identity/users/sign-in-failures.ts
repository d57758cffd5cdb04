import type { Changes } from '../../access/invalidation/committed-change.ts'
import type { Caller } from '../../access/principal.ts'
import { audit } from '../../audit/audit.ts'
import { Fault } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { RecordSecurityEvent } from '../../http/security-events.ts'
import type { AccountHash } from '../account-hash.ts'
import { type SourceKind, sourceKinds } from '../sign-in-rules.ts'
import type { SignInStore } from '../sign-in-store.ts'
import type { SignInFailures } from './model.ts'
import type { Operators } from './operators.ts'
import type { UserStore } from './store.ts'

/** The kind of a stored source, without the hash of a device or the id of a session. */
const sourceOf = (name: string) => {
  const [kind = '', detail] = name.split(' ', 2)
  const source: SourceKind = sourceKinds.find((known) => known === kind) ?? 'unknown'
  return { source, network: source === 'network' && detail !== undefined ? detail : null }
}

/**
 * Failed sign-ins to an account as operators see and clear them. The route admits only operators.
 *
 * Guarantee: after `clear` the next attempt is verified, from any source; on another instance after a second at most.
 */
export const createSignInFailures = ({
  store,
  users,
  hashOf,
  operators,
  changes,
  record,
}: {
  store: Pick<SignInStore, 'listCounts' | 'clearAll'>
  users: Pick<UserStore, 'find'>
  hashOf: AccountHash
  operators: Pick<Operators, 'requireForShare'>
  changes: Changes
  record: RecordSecurityEvent
}) => ({
  list: async (context: RequestContext, userId: string): Promise<SignInFailures> => {
    const user = await users.find(context.deadline, userId)
    if (user === undefined) throw new Fault('user.not_found')
    const rows = user.email === null ? [] : await store.listCounts(context.deadline, hashOf(user.email))
    return {
      items: rows.map(({ source, failures, last_failed_at, paused_until }) => ({
        ...sourceOf(source),
        failures,
        last_failed_at: last_failed_at.toISOString(),
        paused_until: paused_until?.toISOString() ?? null,
      })),
    }
  },

  clear: async (context: RequestContext, caller: Caller, userId: string, address: string): Promise<void> => {
    await changes.commitAndInvalidate(
      context.deadline,
      async (tx) => {
        const user = await operators.requireForShare(tx, caller, userId)
        if (user === undefined || user.email === null) throw new Fault('user.not_found')
        audit.record(tx, {
          action: 'user.failures_cleared',
          actor: caller,
          target: { type: 'user', id: userId },
          context,
        })
        await store.clearAll(tx, hashOf(user.email))
      },
      { grantsOnly: true },
    )
    record(context, 'user.failures_cleared', { address, user_id: userId, by: caller.userId })
  },
})

export type SignInFailuresService = ReturnType<typeof createSignInFailures>
