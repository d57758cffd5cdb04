import type { Changes } from '../access/invalidation/committed-change.ts'
import type { Caller } from '../access/principal.ts'
import { Fault } from '../fault.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { Clock } from '../kit/clock.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import type { Owner, WebhookRow, WebhookStore } from './store.ts'

/** Who may see and change the webhooks of an owner. Both throw where the caller may not. */
export type WebhookRights = {
  requireRead(context: RequestContext, caller: Caller, owner: Owner): Promise<void>
  /** Locks the account and the team that decide, until the transaction ends. Call it first. */
  requireChange(tx: TransactionSql, caller: Caller, owner: Owner): Promise<void>
}

/** A webhook of an owner. */
export type Target = { readonly owner: Owner; readonly id: string }

type Dependencies = {
  readonly store: Pick<WebhookStore, 'find'>
  readonly rights: WebhookRights
  readonly changes: Changes
  readonly clock: Clock
}

/** Reads and changes of webhooks as their owner, the operators or a team, sees them. */
export const createOwned = ({ store, rights, changes, clock }: Dependencies) => ({
  /** Runs a change once the caller has the right to make it, which holds until the commit. */
  change: <T>(
    context: RequestContext,
    caller: Caller,
    owner: Owner,
    work: (tx: TransactionSql, now: Date) => Promise<T>,
  ): Promise<T> =>
    changes.commitAndInvalidate(
      context.deadline,
      async (tx) => {
        await rights.requireChange(tx, caller, owner)
        return work(tx, new Date(clock.now()))
      },
      { grantsOnly: true },
    ),

  /** Throws `webhook.not_found` for one of another owner too. */
  getRow: async (context: RequestContext, { owner, id }: Target, on?: TransactionSql): Promise<WebhookRow> => {
    const row = await store.find(context.deadline, owner, id, on)
    if (row === undefined) throw new Fault('webhook.not_found')
    return row
  },
})

export type Owned = ReturnType<typeof createOwned>
