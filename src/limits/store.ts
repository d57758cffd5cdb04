import type { Deadline } from '../kit/deadline.ts'
import type { Sql } from '../platform/postgres.ts'

/** Sends messages on the channel of all instances. */
export const createLimitStore = (sql: Sql) => ({
  announce: async (deadline: Deadline, channel: string, payload: string): Promise<void> => {
    await deadline.run(sql`select pg_notify(${channel}, ${payload})`)
  },
})
