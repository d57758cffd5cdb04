import type { Sql, TransactionSql } from '../platform/postgres.ts'
import type { Notice } from './device-store.ts'

export type UnsentNotice = Notice & { readonly createdAt: Date }

type Row = { user_id: string; kind: Notice['kind']; details: Notice['details']; created_at: Date }

/** Notices that wait for their mail. */
export const createNoticeStore = (batch: Sql) => ({
  /**
   * Takes up to 100 unsent notices since `since`, oldest first, and calls `send` for each in the transaction that marks them as
   * sent. Skips locked rows, so of several instances each takes others. Returns how many it took.
   */
  takeUnsent: (
    since: Date,
    at: Date,
    send: (tx: TransactionSql, notice: UnsentNotice) => Promise<void>,
  ): Promise<number> =>
    batch.begin(async (tx) => {
      const rows = await tx<Row[]>`
        update notices set sent_at = ${at} where id in (
          select id from notices where sent_at is null and created_at >= ${since}
           order by created_at limit 100 for update skip locked)
        returning user_id, kind, details, created_at`
      for (const { user_id, kind, details, created_at } of rows)
        await send(tx, { userId: user_id, kind, details, createdAt: created_at })
      return rows.length
    }) as Promise<number>,
})

export type NoticeStore = ReturnType<typeof createNoticeStore>
