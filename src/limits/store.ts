import type { Deadline } from '../kit/deadline.ts'
import type { Sql, TransactionSql } from '../platform/postgres.ts'

/** Sends messages on the channel of all instances. */
export const createLimitStore = (sql: Sql) => ({
  /** Runs `beforehand` in the transaction that sends the message. */
  announce: async (
    deadline: Deadline,
    { channel, payload }: { channel: string; payload: string },
    beforehand: (tx: TransactionSql) => void,
  ): Promise<void> => {
    const announced = sql.begin(async (tx) => {
      beforehand(tx)
      await tx`select pg_notify(${channel}, ${payload})`
    })
    await deadline.run(announced)
  },
})
