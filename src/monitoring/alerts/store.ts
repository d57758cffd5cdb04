import { highestId } from '../../kit/cursor.ts'
import type { Deadline } from '../../kit/deadline.ts'
import type { Sql } from '../../platform/postgres.ts'
import type { AlertFigure, AlertMetric, AlertSeverity } from './evaluator.ts'

/** How long a cleared alert is kept. */
const keptDays = 400

export type AlertRow = {
  id: string
  metric: AlertMetric
  severity: AlertSeverity
  value: number
  target: number
  samples: string
  opened_at: Date
  raised_at: Date | null
  cleared_at: Date | null
}

export type AlertFilter = {
  readonly after: string | null
  readonly limit: number
  readonly status: 'open' | 'cleared' | undefined
  readonly metric: AlertMetric | undefined
  readonly severity: AlertSeverity | undefined
}

type Change = AlertFigure & { readonly metric: AlertMetric; readonly severity: AlertSeverity; readonly at: Date }

/** `batch` is for what no request waits for. */
export const createAlertStore = (sql: Sql, batch: Sql) => {
  const columns = sql`id, metric, severity, value, target, samples, opened_at, raised_at, cleared_at`
  return {
    /** Takes or renews the lease. False: another instance has it; then the statement is a read. */
    lease: async (holder: string, leaseMs: number): Promise<boolean> => {
      const { count } = await batch`
        insert into alert_evaluator as e (holder, lease_until)
        values (${holder}, clock_timestamp() + ${leaseMs} * interval '1 millisecond')
            on conflict (only_row) do update set holder = excluded.holder, lease_until = excluded.lease_until
               where e.holder = excluded.holder or e.lease_until < clock_timestamp()`
      return count === 1
    },

    /** Ends the lease at once. */
    release: async (holder: string): Promise<void> => {
      await batch`update alert_evaluator set lease_until = clock_timestamp() where holder = ${holder}`
    },

    listOpen: (): Promise<Pick<AlertRow, 'metric' | 'severity' | 'value'>[]> =>
      batch`select metric, severity, value from alerts where cleared_at is null`,

    /** Does nothing where an alert of the metric is open. */
    open: async ({ metric, severity, value, target, samples, at }: Change, id: string): Promise<void> => {
      await batch`
        insert into alerts (id, metric, severity, value, target, samples, opened_at)
        values (${id}, ${metric}, ${severity}, ${value}, ${target}, ${samples}, ${at})
            on conflict (metric) where cleared_at is null do nothing`
    },

    raise: async ({ metric, severity, value, samples, at }: Omit<Change, 'target'>): Promise<void> => {
      await batch`
        update alerts set severity = ${severity}, value = greatest(value, ${value}), samples = ${samples}, raised_at = ${at}
         where metric = ${metric} and cleared_at is null and severity <> ${severity}`
    },

    clear: async (metric: AlertMetric, worst: number, at: Date): Promise<void> => {
      await batch`
        update alerts set value = greatest(value, ${worst}), cleared_at = greatest(opened_at, ${at})
         where metric = ${metric} and cleared_at is null`
    },

    /** Newest first. One row more than `limit`. */
    list: (deadline: Deadline, { after, limit, status, metric, severity }: AlertFilter): Promise<AlertRow[]> =>
      deadline.run(sql<AlertRow[]>`
        select ${columns} from alerts
         where id < ${after ?? highestId}
               ${status === 'open' ? sql`and cleared_at is null` : sql``}
               ${status === 'cleared' ? sql`and cleared_at is not null` : sql``}
               ${metric === undefined ? sql`` : sql`and metric = ${metric}`}
               ${severity === undefined ? sql`` : sql`and severity = ${severity}`}
         order by id desc limit ${limit + 1}`),

    /** Deletes alerts that cleared long ago. */
    purge: async (): Promise<void> => {
      await batch`delete from alerts where cleared_at < now() - make_interval(days => ${keptDays})`
    },
  }
}

export type AlertStore = ReturnType<typeof createAlertStore>
