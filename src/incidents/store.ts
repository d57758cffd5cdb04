import { highestId } from '../kit/cursor.ts'
import type { Deadline } from '../kit/deadline.ts'
import { isId, newId } from '../kit/id.ts'
import type { Queryable, Sql, TransactionSql } from '../platform/postgres.ts'
import {
  type Evidence,
  type IncidentKind,
  type IncidentSubject,
  maxEvidence,
  type Severity,
  severities,
} from './report.ts'

export type EvidencePiece = { readonly at_ms: number; readonly details: Evidence }

/** Reports of one kind about one subject. */
export type CollectedReport = {
  readonly kind: IncidentKind
  readonly severity: Severity
  readonly subject: IncidentSubject
  readonly count: number
  readonly firstSeenMs: number
  readonly lastSeenMs: number
  /** The oldest first. */
  readonly evidence: readonly EvidencePiece[]
}

export type OpenedIncident = {
  readonly id: string
  readonly kind: IncidentKind
  readonly severity: Severity
  readonly subject: IncidentSubject
}

export const resolutions = ['resolved', 'false_positive', 'ignored'] as const
export type Resolution = (typeof resolutions)[number]

export type IncidentRow = {
  id: string
  kind: IncidentKind
  severity: Severity
  subject_type: IncidentSubject['type']
  subject_id: string
  count: string
  first_seen_at: Date
  last_seen_at: Date
  evidence: EvidencePiece[]
  assignee_id: string | null
  opened_by: string | null
  note: string
  closed_at: Date | null
  closed_by: string | null
  resolution: Resolution | null
}

export type IncidentFilter = {
  readonly after: string | null
  readonly limit: number
  readonly status: 'open' | 'closed' | undefined
  readonly kind: IncidentKind | undefined
  readonly severity: Severity | undefined
  readonly subjectType: IncidentSubject['type'] | undefined
  readonly subjectId: string | undefined
  readonly assigneeId: string | undefined
}

export type IncidentUpdate = {
  readonly severity?: Severity
  readonly assignee_id?: string | null
  readonly note?: string
  readonly closed_at?: Date
  readonly closed_by?: string
  readonly resolution?: Resolution
}

/** How long a closed incident is kept. */
const keptDays = 400

const severityOrder = [...severities]

const toRow = ({ subject, firstSeenMs, lastSeenMs, ...report }: CollectedReport, openedBy: string | null) => ({
  ...report,
  id: newId(),
  subject_type: subject.type,
  subject_id: subject.id,
  first_seen_at: new Date(firstSeenMs),
  last_seen_at: new Date(lastSeenMs),
  opened_by: openedBy,
})

type ReportRow = ReturnType<typeof toRow>

const byKey = (one: ReportRow, other: ReportRow): number => {
  const [key, otherKey] = [one, other].map((row) => JSON.stringify([row.kind, row.subject_type, row.subject_id]))
  return (key as string) < (otherKey as string) ? -1 : 1
}

export const createIncidentStore = (sql: Sql, batch: Sql) => {
  const columns = (on: Queryable) => on`
    id, kind, severity, subject_type, subject_id, count, first_seen_at, last_seen_at, evidence, assignee_id, opened_by, note,
    closed_at, closed_by, resolution`

  /**
   * Opens an incident for each report, or adds the report to the open incident of the same kind about the same subject: it counts,
   * moves the time when it was last seen, raises the severity, and keeps the first piece of evidence and the latest ones. Returns
   * the incidents that were opened. No two reports may have one kind and subject.
   *
   * A report about a closed account, or a session of one, counts without its evidence. Locks the accounts for key share, so that
   * one that is being closed is either closed before, or finds the evidence and erases it.
   *
   * One statement, with an index lookup and a write for each report. Accounts and reports are sorted, so that instances that report
   * the same subjects lock the rows in one order.
   */
  const report = async (
    reports: readonly CollectedReport[],
    on: Queryable = batch,
    openedBy: string | null = null,
  ): Promise<OpenedIncident[]> => {
    const rows = reports.map((reported) => toRow(reported, openedBy)).toSorted(byKey)
    const idsOf = (type: 'user' | 'session') =>
      rows.flatMap(({ subject_type, subject_id, evidence }) =>
        subject_type === type && isId(subject_id) && evidence.length > 0 ? [subject_id] : [],
      )
    const stored = await on<{ id: string }[]>`
      with reports as materialized (
        select r.* from jsonb_to_recordset(${on.json(rows as never)}) as r (
                 id uuid, kind text, severity text, subject_type text, subject_id text, count bigint, first_seen_at timestamptz,
                 last_seen_at timestamptz, evidence jsonb, opened_by uuid)
      ), people as materialized (
        select 'user' as subject_type, id as subject_id, id as user_id from unnest(${idsOf('user')}::uuid[]) id
        union all
        select 'session', id, user_id from sessions where id = any (${idsOf('session')}::uuid[])
      ), accounts as materialized (
        select id from users where id in (select user_id from people) and status <> 'deleted' order by id for key share
      ), closed as materialized (
        select subject_type, subject_id::text from people where user_id not in (select id from accounts)
      )
      insert into incidents as i
             (id, kind, severity, subject_type, subject_id, count, first_seen_at, last_seen_at, evidence, opened_by)
      select r.id, r.kind, r.severity, r.subject_type, r.subject_id, r.count, r.first_seen_at, r.last_seen_at,
             case when (r.subject_type, r.subject_id) in (select subject_type, subject_id from closed) then '[]' else r.evidence end,
             r.opened_by
        from reports r
       order by r.kind, r.subject_type, r.subject_id
          on conflict (kind, subject_type, subject_id) where closed_at is null do update
         set count = i.count + excluded.count,
             first_seen_at = least(i.first_seen_at, excluded.first_seen_at),
             last_seen_at = greatest(i.last_seen_at, excluded.last_seen_at),
             severity = case when array_position(${severityOrder}::text[], excluded.severity)
                                  > array_position(${severityOrder}::text[], i.severity)
                             then excluded.severity else i.severity end,
             evidence = (
               select coalesce(jsonb_agg(value order by place), '[]')
                 from jsonb_array_elements(i.evidence || excluded.evidence) with ordinality as piece (value, place)
                where place = 1
                   or place > jsonb_array_length(i.evidence || excluded.evidence) - ${maxEvidence - 1})
      returning i.id`
    const ids = new Set(stored.map(({ id }) => id))
    return rows.flatMap(({ id, kind, severity, subject_type: type, subject_id }) =>
      ids.has(id) ? [{ id, kind, severity, subject: { type, id: subject_id } }] : [],
    )
  }

  return {
    report,

    /** Newest first. One row more than `limit`. */
    list: (deadline: Deadline, filter: IncidentFilter): Promise<IncidentRow[]> => {
      const { after, limit, status, kind, severity, subjectType, subjectId, assigneeId } = filter
      return deadline.run(sql<IncidentRow[]>`
        select ${columns(sql)} from incidents
         where id < ${after ?? highestId}
               ${status === 'open' ? sql`and closed_at is null` : sql``}
               ${status === 'closed' ? sql`and closed_at is not null` : sql``}
               ${kind === undefined ? sql`` : sql`and kind = ${kind}`}
               ${severity === undefined ? sql`` : sql`and severity = ${severity}`}
               ${subjectType === undefined ? sql`` : sql`and subject_type = ${subjectType}`}
               ${subjectId === undefined ? sql`` : sql`and subject_id = ${subjectId}`}
               ${assigneeId === undefined ? sql`` : sql`and assignee_id = ${assigneeId}`}
         order by id desc limit ${limit + 1}`)
    },

    find: async (deadline: Deadline, id: string, on: Queryable = sql): Promise<IncidentRow | undefined> => {
      const [row] = await deadline.run(on<IncidentRow[]>`select ${columns(on)} from incidents where id = ${id}`)
      return row
    },

    /** The open incident of a kind about a subject. */
    findOpen: async (
      tx: TransactionSql,
      { kind, subject }: Pick<CollectedReport, 'kind' | 'subject'>,
    ): Promise<IncidentRow | undefined> => {
      const [row] = await tx<IncidentRow[]>`
        select ${columns(tx)} from incidents
         where kind = ${kind} and subject_type = ${subject.type} and subject_id = ${subject.id} and closed_at is null`
      return row
    },

    /** Locks the incident for no key update: reports about it wait. */
    lock: async (tx: TransactionSql, id: string): Promise<IncidentRow | undefined> => {
      const [row] = await tx<IncidentRow[]>`select ${columns(tx)} from incidents where id = ${id} for no key update`
      return row
    },

    /** Call with the incident locked. */
    update: async (tx: TransactionSql, id: string, changes: IncidentUpdate): Promise<IncidentRow> => {
      const [row] = await tx<IncidentRow[]>`
        update incidents set ${tx(changes)} where id = ${id} returning ${columns(tx)}`
      return row as IncidentRow
    },

    /** For an account that is closed: its incidents keep its id, and lose evidence and note. None stays assigned to it. */
    forgetUser: async (tx: TransactionSql, userId: string): Promise<void> => {
      await tx`
        update incidents set evidence = '[]', note = ''
         where (subject_type = 'user' and subject_id = ${userId})
            or (subject_type = 'session' and subject_id in (select id::text from sessions where user_id = ${userId}))`
      await tx`update incidents set assignee_id = null where assignee_id = ${userId} and closed_at is null`
    },

    /** Deletes incidents that were closed long ago. */
    purge: async (): Promise<void> => {
      await batch`delete from incidents where closed_at < now() - make_interval(days => ${keptDays})`
    },
  }
}

export type IncidentStore = ReturnType<typeof createIncidentStore>
