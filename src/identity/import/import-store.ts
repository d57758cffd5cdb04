import type { Sql, TransactionSql } from '../../platform/postgres.ts'

/** An account that is about to be written. */
export type ImportedUser = {
  readonly id: string
  readonly email: string
  readonly displayName: string
  readonly passwordHash: string | null
  readonly status: 'active' | 'suspended'
  readonly emailVerifiedAt: Date | null
  readonly createdAt: Date
}

/** The import of accounts, in one transaction. No fact is cached of an account that does not exist, so nothing is invalidated. */
export const createImportStore = (sql: Sql) => ({
  /** Runs the import in one transaction without the limits of requests: all of it is committed, or nothing. */
  inOneTransaction: <T>(work: (tx: TransactionSql) => Promise<T>): Promise<T> =>
    sql.begin(async (tx) => {
      await tx`select set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '0', true)`
      return work(tx)
    }) as Promise<T>,

  /** Of these spellings of addresses, those of an account. */
  findTaken: async (tx: TransactionSql, spellings: readonly string[]): Promise<ReadonlySet<string>> => {
    const rows = await tx<{ email: string }[]>`
      select email from users where email = any (${[...spellings]}::text[])`
    return new Set(rows.map(({ email }) => email))
  },

  /**
   * Writes accounts, and returns the ids of those that were written. One whose address was registered since it was looked for is
   * left out.
   */
  insert: async (tx: TransactionSql, users: readonly ImportedUser[]): Promise<ReadonlySet<string>> => {
    const column = <K extends keyof ImportedUser>(name: K) => users.map((user) => user[name])
    // As text: the driver takes a list of times for one time.
    const times = (name: 'emailVerifiedAt' | 'createdAt') => column(name).map((time) => time?.toISOString() ?? null)
    const rows = await tx<{ id: string }[]>`
        insert into users (id, email, display_name, password_hash, status, email_verified_at, created_at)
        select u.id, u.email, u.display_name, u.password_hash, u.status, u.email_verified_at::timestamptz, u.created_at::timestamptz
          from unnest(${column('id')}::uuid[], ${column('email')}::text[], ${column('displayName')}::text[],
                      ${column('passwordHash')}::text[], ${column('status')}::text[],
                      ${times('emailVerifiedAt')}::text[], ${times('createdAt')}::text[])
            as u (id, email, display_name, password_hash, status, email_verified_at, created_at)
        on conflict on constraint users__email do nothing
        returning id`
    return new Set(rows.map(({ id }) => id))
  },
})

export type ImportStore = ReturnType<typeof createImportStore>
