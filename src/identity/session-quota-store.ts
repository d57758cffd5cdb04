import type { TransactionSql } from '../platform/postgres.ts'

/** The part of the identity store that keeps the sessions of an account within its quota. */
export const sessionQuotaStore = {
  /**
   * Ends the live session of a user that was seen least recently, if there are `maxLive` or more. Lock the account first.
   * Returns the id of that session.
   */
  endSurplusSession: async (
    tx: TransactionSql,
    userId: string,
    now: Date,
    maxLive: number,
  ): Promise<string | undefined> => {
    const live = tx`user_id = ${userId} and ended_at is null and least(idle_expires_at, expires_at) > ${now}`
    const [row] = await tx<{ id: string }[]>`
      update sessions set ended_at = ${now}, end_reason = 'replaced'
       where id = (select id from sessions where ${live} order by last_seen_at, id limit 1) and ended_at is null
         and (select count(*) from sessions where ${live}) >= ${maxLive}
      returning id`
    return row?.id
  },
}
