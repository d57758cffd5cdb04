import type { Sql, TransactionSql } from '../platform/postgres.ts'

/** Addresses of accounts, and how many mails an address got. `batch` is for what no request waits for. */
export const createMailStore = (batch: Sql) => ({
  /** The address of an active account. */
  findAddress: async (tx: TransactionSql, userId: string): Promise<string | undefined> => {
    const [row] = await tx<{ email: string | null }[]>`
      select email from users where id = ${userId} and status = 'active'`
    return row?.email ?? undefined
  },

  /** The addresses that an account had until lately, whose owners can still undo the change. */
  findFormerAddresses: async (tx: TransactionSql, userId: string, at: Date): Promise<string[]> => {
    const rows = await tx<{ email: string }[]>`
      select email from former_addresses where user_id = ${userId} and expires_at > ${at} order by email`
    return rows.map(({ email }) => email)
  },

  /** Counts a mail, and returns how many of its template the address got in that hour, with this one. */
  count: async (tx: TransactionSql, recipientHash: Uint8Array, template: string, at: Date): Promise<number> => {
    const [row] = await tx<{ mails: number }[]>`
      insert into mail_counts as c (recipient_hash, template, hour, mails)
      values (${recipientHash}, ${template}, date_trunc('hour', ${at}::timestamptz, 'UTC'), 1)
      on conflict (recipient_hash, template, hour) do update set mails = c.mails + 1
      returning mails`
    return row?.mails ?? 0
  },

  /** Deletes the counts of hours before `before`. */
  purge: async (before: Date): Promise<void> => {
    await batch`delete from mail_counts where hour < ${before}`
  },
})

export type MailStore = ReturnType<typeof createMailStore>
