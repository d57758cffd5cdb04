import type { Deadline } from '../../kit/deadline.ts'
import type { Sql } from '../../platform/postgres.ts'

const purgeLimit = 10_000

/** `batch` is the pool for background tasks. */
export const createTicketStore = (sql: Sql, batch: Sql) => ({
  /** Notes the use of a ticket. False: it was used before. Of concurrent uses one is the first. */
  use: async (deadline: Deadline, id: string, expiresAt: Date): Promise<boolean> => {
    const { count } = await deadline.run(sql`
      insert into used_stream_tickets (id, expires_at) values (${id}, ${expiresAt}) on conflict do nothing`)
    return count === 1
  },

  /** Deletes the rows of tickets that expired before this moment. */
  purge: async (before: Date): Promise<number> => {
    const { count } = await batch`
      delete from used_stream_tickets
       where id in (select id from used_stream_tickets where expires_at < ${before} order by expires_at limit ${purgeLimit})`
    return count
  },
})

export type TicketStore = ReturnType<typeof createTicketStore>
