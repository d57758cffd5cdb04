import { highestId } from '../kit/cursor.ts'
import type { Deadline } from '../kit/deadline.ts'
import type { Queryable, Sql, TransactionSql } from '../platform/postgres.ts'
import type { EntryKind } from './model.ts'

export type EntryRow = {
  id: string
  kind: EntryKind
  amount: number
  balance_after: number
  generation_id: string | null
  note: string
  created_at: Date
}

export type NewEntry = Pick<EntryRow, 'id' | 'kind' | 'amount'> & {
  readonly user_id: string
  readonly generation_id?: string
  readonly note?: string
  readonly created_by?: string
}

type Place = { readonly after: string | null; readonly limit: number }

export const createCreditStore = (sql: Sql) => {
  /** Balances are read as float8: a bigint beyond 2^53 would lose precision, but no sum of grants comes near that. */
  const columns = (on: Queryable) => on`
    id, kind, amount, balance_after::float8 as balance_after, generation_id, note, created_at`

  return {
    /** An account without entries has a balance of 0. */
    findBalance: async (deadline: Deadline, userId: string): Promise<number> => {
      const [row] = await deadline.run(sql<{ balance: number }[]>`
        select balance::float8 as balance from credit_balances where user_id = ${userId}`)
      return row?.balance ?? 0
    },

    /** Locks the balance for update until the transaction ends, and returns it. */
    lockBalanceForUpdate: async (tx: TransactionSql, userId: string): Promise<number> => {
      const [row] = await tx<{ balance: number }[]>`
        select balance::float8 as balance from credit_balances where user_id = ${userId} for update`
      return row?.balance ?? 0
    },

    /** Entries of one account, newest first. One row more than `limit`. */
    list: (deadline: Deadline, userId: string, { after, limit }: Place): Promise<EntryRow[]> =>
      deadline.run(sql<EntryRow[]>`
        select ${columns(sql)} from credit_ledger
         where user_id = ${userId} and id < ${after ?? highestId}
         order by id desc limit ${limit + 1}`),

    /**
     * Inserts an entry. Triggers lock the balance for update, raise the id above that of the last entry, update the
     * balance, and refuse an entry that would make it negative.
     */
    insert: async (tx: TransactionSql, entry: NewEntry): Promise<EntryRow> => {
      const [row] = await tx<EntryRow[]>`insert into credit_ledger ${tx(entry)} returning ${columns(tx)}`
      return row as EntryRow
    },

    /**
     * Settles or refunds the reservation of a generation. Returns false without one, or if it was closed already. Of
     * concurrent calls one succeeds: each waits for the lock of the balance, and the later ones conflict with its entry on
     * `credit_ledger__closed_once`.
     */
    close: async (
      tx: TransactionSql,
      id: string,
      generationId: string,
      kind: 'settle' | 'refund',
    ): Promise<boolean> => {
      const { count } = await tx`
        insert into credit_ledger (id, user_id, kind, amount, generation_id)
        select ${id}, user_id, ${kind}, case ${kind} when 'refund' then -amount else 0 end, generation_id
          from credit_ledger where generation_id = ${generationId} and kind = 'reserve'
        on conflict (generation_id) where kind in ('settle', 'refund') do nothing`
      return count === 1
    },
  }
}

/** How long an e-mail address is remembered to have had its welcome credits. */
const rememberedDays = 400

/** When new accounts get their welcome credits. */
export const createWelcomeStore = (sql: Sql) => ({
  /** Adds an account that gets its credits later. */
  defer: async (tx: TransactionSql, userId: string, network: string): Promise<void> => {
    await tx`insert into pending_welcomes (user_id, network) values (${userId}, ${network})`
  },

  /** The address of an account whose credits are pending, and the network it was registered from. Locks that row for update. */
  lockPending: async (tx: TransactionSql, userId: string): Promise<{ email: string; network: string } | undefined> => {
    const [row] = await tx<{ email: string; network: string }[]>`
      select u.email, p.network from pending_welcomes p join users u on u.id = p.user_id
       where p.user_id = ${userId} and u.email is not null for update of p`
    return row
  },

  removePending: async (tx: TransactionSql, userId: string): Promise<void> => {
    await tx`delete from pending_welcomes where user_id = ${userId}`
  },

  /**
   * Counts one more account of a network for today (UTC, by the clock of Postgres). False: it has had `max` already, and
   * nothing is counted. Locks the row of the network until the transaction ends, so that concurrent grants take turns.
   */
  countGrant: async (tx: TransactionSql, network: string, max: number): Promise<boolean> => {
    const { count } = await tx`
      insert into welcome_grants as w (network, day, accounts)
      values (${network}, (clock_timestamp() at time zone 'utc')::date, 1)
      on conflict (network, day) do update set accounts = w.accounts + 1 where w.accounts < ${max}`
    return count === 1
  },

  /** Whether an e-mail address has had its credits, by its hash. */
  isWelcomed: async (tx: TransactionSql, addressHash: Uint8Array): Promise<boolean> => {
    const { count } = await tx`
      select from welcomed_addresses
       where address_hash = ${addressHash} and remembered_at > clock_timestamp() - ${rememberedDays}::float8 * interval '1 day'`
    return count === 1
  },

  rememberWelcomed: async (tx: TransactionSql, addressHash: Uint8Array): Promise<void> => {
    await tx`
      insert into welcomed_addresses (address_hash, remembered_at) values (${addressHash}, clock_timestamp())
      on conflict (address_hash) do update set remembered_at = excluded.remembered_at`
  },

  /** The e-mail address of an account that has had its credits. */
  findWelcomedAddress: async (tx: TransactionSql, userId: string): Promise<string | undefined> => {
    const [row] = await tx<{ email: string }[]>`
      select email from users where id = ${userId} and email is not null
         and exists (select from credit_ledger where user_id = ${userId} and kind = 'welcome')`
    return row?.email
  },

  /** Deletes the counts of earlier days, and addresses that were remembered long enough, 10,000 at a time. */
  purge: async (): Promise<void> => {
    await sql`delete from welcome_grants where day < (clock_timestamp() at time zone 'utc')::date - 1`
    await sql`
      delete from welcomed_addresses where address_hash in (
             select address_hash from welcomed_addresses
              where remembered_at < clock_timestamp() - ${rememberedDays}::float8 * interval '1 day' limit 10000)`
  },
})

export type WelcomeStore = ReturnType<typeof createWelcomeStore>

export type CreditStore = ReturnType<typeof createCreditStore>
