import type { Sql } from '../../platform/postgres.ts'

/** A long open transaction. If its connection listens, it receives nothing, and the queue for notifications keeps growing. */
export type OpenTransaction = { readonly pid: number; readonly application: string; readonly seconds: number }

const longS = 5
const maxListed = 3

export const createNotificationQueueStore = (sql: Sql) => ({
  /** The share of the queue for notifications, of the whole server, that listeners have not read yet: from 0 to 1. */
  readUsage: async (): Promise<number> => {
    const [row] = await sql<{ usage: number }[]>`select pg_notification_queue_usage() as usage`
    return row?.usage ?? 0
  },

  /** The longest open ones of the server first. Those of other accounts need the role pg_read_all_stats. */
  listOpenTransactions: async (): Promise<OpenTransaction[]> => sql<OpenTransaction[]>`
    select pid, application_name as application, extract(epoch from now() - xact_start)::int as seconds
      from pg_stat_activity
     where xact_start < now() - make_interval(secs => ${longS}) and pid <> pg_backend_pid() and backend_type = 'client backend'
     order by xact_start limit ${maxListed}`,
})

export type NotificationQueueStore = ReturnType<typeof createNotificationQueueStore>
