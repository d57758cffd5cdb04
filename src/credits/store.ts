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
  /** Balances are wider than a number of JavaScript is exact, but no sum of grants will be. */
  const columns = (on: Queryable) => on`
    id, kind, amount, balance_after::float8 as balance_after, generation_id, note, created_at`

  return {
    /** Whoever was never given anything has nothing. */
    findBalance: async (deadline: Deadline, userId: string): Promise<number> => {
      const [row] = await deadline.run(sql<{ balance: number }[]>`
        select balance::float8 as balance from credit_balances where user_id = ${userId}`)
      return row?.balance ?? 0
    },

    /** The balance, which nobody else can change until the transaction ends. */
    lockBalance: async (tx: TransactionSql, userId: string): Promise<number> => {
      const [row] = await tx<{ balance: number }[]>`
        select balance::float8 as balance from credit_balances where user_id = ${userId} for update`
      return row?.balance ?? 0
    },

    /** Entries of one person, newest first. One row more than `limit`. */
    list: (deadline: Deadline, userId: string, { after, limit }: Place): Promise<EntryRow[]> =>
      deadline.run(sql<EntryRow[]>`
        select ${columns(sql)} from credit_ledger
         where user_id = ${userId} and (${after}::uuid is null or id < ${after}::uuid)
         order by id desc limit ${limit + 1}`),

    /**
     * Triggers keep the balance, and refuse what would take it below 0. They lock it first, and then give an id that is
     * not above the one of the last entry another that is.
     */
    insert: async (tx: TransactionSql, entry: NewEntry): Promise<EntryRow> => {
      const [row] = await tx<EntryRow[]>`insert into credit_ledger ${tx(entry)} returning ${columns(tx)}`
      return row as EntryRow
    },

    /**
     * Closes what was reserved for a generation, unless nothing was or it is closed. Of many that try at once, one does:
     * each waits for the balance, and those that come after it meet its entry on `credit_ledger__closed_once`.
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

export type CreditStore = ReturnType<typeof createCreditStore>
