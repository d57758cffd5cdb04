import type { TransactionSql } from '../platform/postgres.ts'
import type { ChangeAction, TargetType } from './catalogue.ts'
import { type AuditActor, type AuditContext, type AuditEntry, prepareEvent } from './event.ts'
import { insertEvent } from './store.ts'

/**
 * The audit log of changes.
 *
 * `record` inserts the row of a change in the transaction of the change: both are committed or neither is. Call it once for each
 * request that changes anything, with the target and the values that a reader needs to understand the change, where those are no
 * secrets and name nobody.
 *
 * Cost: one statement, which is sent at once and shares a round trip with the next one; there is nothing to wait for. Where it
 * fails, Postgres refuses every later statement of the transaction. `commitAndInvalidate` always has one; in another transaction
 * another statement must follow.
 */
export const audit = {
  record: (tx: TransactionSql, entry: AuditEntry<ChangeAction>): void => {
    insertEvent(tx, prepareEvent(entry)).catch(() => {})
  },
} as const

type About = Pick<AuditEntry, 'userId' | 'teamId' | 'before' | 'after' | 'names'>

/** As `audit.record`, for changes of one kind of target. */
export const recorderOf =
  (type: TargetType) =>
  (
    tx: TransactionSql,
    context: AuditContext,
    actor: AuditActor,
    id: string | null,
    action: ChangeAction,
    about: About = {},
  ): void =>
    audit.record(tx, { action, actor, target: { type, id }, context, ...about })
