import type { Deadline } from '../../kit/deadline.ts'
import { onViolation, type Queryable, type Sql, type TransactionSql } from '../../platform/postgres.ts'
import type { UserRow } from '../store.ts'
import type { AccountChanges } from './model.ts'

export type AccountRow = Omit<UserRow, 'password_hash'>

type ChangedColumns = Omit<AccountChanges, 'email_verified'> & Partial<Pick<AccountRow, 'email_verified_at'>>

export type AccountFilter = {
  readonly after: string | null
  readonly limit: number
  /** Of the address to look for. */
  readonly spellings: readonly string[] | undefined
  readonly status: AccountRow['status'] | undefined
}

/** The driver takes an object for a row, so a column of JSON is marked as such. */
const toColumns = (tx: TransactionSql, { limits, ...columns }: ChangedColumns) => ({
  ...columns,
  ...(limits !== undefined && { limits: limits === null ? null : tx.json(limits as never) }),
})

export const createUserStore = (sql: Sql) => {
  /** Every column except the password hash, which operators must not see. */
  const columns = (on: Queryable) => on`
    id, email, display_name, status, role, plan, limits, created_at, updated_at, email_verified_at,
    second_factor`

  return {
    /** Lists accounts, newest first, including closed ones. Returns up to `limit + 1` rows. */
    list: (deadline: Deadline, { after, limit, spellings, status }: AccountFilter): Promise<AccountRow[]> =>
      deadline.run(sql<AccountRow[]>`
        select ${columns(sql)} from users
         where true
               ${after === null ? sql`` : sql`and id < ${after}`}
               ${spellings === undefined ? sql`` : sql`and email = any (${[...spellings]}::text[])`}
               ${status === undefined ? sql`` : sql`and status = ${status}`}
         order by id desc limit ${limit + 1}`),

    find: async (deadline: Deadline, id: string): Promise<AccountRow | undefined> => {
      const [row] = await deadline.run(sql<AccountRow[]>`select ${columns(sql)} from users where id = ${id}`)
      return row
    },

    /**
     * Locks accounts for no key update until the transaction ends, in the order of their ids: two operators who change each
     * other wait, without a deadlock. A sign-in either waits or has opened its session already. Session rows are locked after.
     */
    lockForNoKeyUpdate: (tx: TransactionSql, ids: readonly string[]): Promise<AccountRow[]> => tx<AccountRow[]>`
      select ${columns(tx)} from users where id = any(${ids}::uuid[]) order by id for no key update`,

    /** As `lockForNoKeyUpdate`, for share: transactions that only read the accounts do not wait for each other. */
    lockForShare: (tx: TransactionSql, ids: readonly string[]): Promise<AccountRow[]> => tx<AccountRow[]>`
      select ${columns(tx)} from users where id = any(${ids}::uuid[]) order by id for share`,

    /** Call with the account locked. */
    hasPassword: async (tx: TransactionSql, id: string): Promise<boolean> => {
      const { count } = await tx`select from users where id = ${id} and password_hash is not null`
      return count === 1
    },

    /** Call with the account locked. No password is right from then on. */
    removePassword: async (tx: TransactionSql, id: string): Promise<void> => {
      await tx`update users set password_hash = null, updated_at = clock_timestamp() where id = ${id}`
    },

    /** Call with the account locked. Uses the clock and not now(), because the transaction may have waited for the lock. */
    update: async (tx: TransactionSql, id: string, changes: ChangedColumns): Promise<AccountRow> => {
      const [row] = await tx<AccountRow[]>`
        update users set ${tx(toColumns(tx, changes))}, updated_at = clock_timestamp() where id = ${id} returning ${columns(tx)}`
      return row as AccountRow
    },
  }
}

export type UserStore = ReturnType<typeof createUserStore>

export type Promotion = { readonly outcome: 'promoted' | 'is_admin'; readonly userId: string } | { outcome: 'absent' }

/**
 * Makes the active account with this email address an operator. Idempotent: of instances that start together, one updates the
 * row. Running instances may serve the old role from their caches until the entry expires.
 */
export const promoteByEmail = async (sql: Sql, email: string): Promise<Promotion> => {
  const [promoted] = await sql<{ id: string }[]>`
    update users set role = 'admin', updated_at = now()
     where email = ${email} and status = 'active' and role <> 'admin' returning id`
  if (promoted !== undefined) return { outcome: 'promoted', userId: promoted.id }
  const [admin] = await sql<{ id: string }[]>`
    select id from users where email = ${email} and status = 'active' and role = 'admin'`
  return admin === undefined ? { outcome: 'absent' } : { outcome: 'is_admin', userId: admin.id }
}

/** Throws `identity.email_taken` where an account, also one that is suspended, has the address. */
export const insertOperator = async (
  sql: Sql,
  user: { id: string; email: string; displayName: string; passwordHash: string },
): Promise<void> => {
  await sql`
    insert into users (id, email, display_name, password_hash, role, email_verified_at)
    values (${user.id}, ${user.email}, ${user.displayName}, ${user.passwordHash}, 'admin', now())
    `.catch(onViolation('users__email', 'identity.email_taken'))
}
