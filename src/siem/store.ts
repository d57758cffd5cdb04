import type { Sql } from '../platform/postgres.ts'
import type { AuditedEvent } from './ocsf.ts'

/** Where the receiver is in the chain of a month. */
export type Cursor = { readonly month: string; readonly sequence: number }

export type SiemBatch = {
  readonly month: string
  readonly events: readonly AuditedEvent[]
  /** Of the chain of the month when the batch was read. */
  readonly head: string | undefined
}

type Row = {
  sequence: string
  hash: string
  event_id: string
  event_at: string
  action: string | null
  actor_kind: string | null
  actor_id: string | null
  service_key_id: string | null
  session_id: string | null
  target_type: string | null
  target_id: string | null
  user_id: string | null
  team_id: string | null
  request_id: string | null
  before: unknown
  after: unknown
  count: number | null
  details: string | null
}

const detailsIn = (text: string | null): { address?: unknown; user_agent?: unknown } => {
  try {
    return JSON.parse(text ?? '{}')
  } catch {
    return {}
  }
}
const textOr = (value: unknown): string | undefined => (typeof value === 'string' && value !== '' ? value : undefined)

/** The action of a link whose event is gone. */
export const missingAction = 'audit.event_missing'

const toEvent = (row: Row, month: string): AuditedEvent => {
  const details = detailsIn(row.details)
  return {
    id: row.event_id,
    at: row.event_at,
    action: row.action ?? missingAction,
    actorKind: row.actor_kind ?? 'unknown',
    actorId: row.actor_id,
    serviceKeyId: row.service_key_id,
    sessionId: row.session_id,
    targetType: row.target_type ?? 'audit',
    targetId: row.target_id,
    userId: row.user_id,
    teamId: row.team_id,
    requestId: row.request_id ?? '-',
    before: row.before,
    after: row.after,
    count: row.count ?? 1,
    address: textOr(details.address),
    userAgent: textOr(details.user_agent),
    chain: { month, sequence: Number(row.sequence), hash: row.hash },
  }
}

export const createSiemStore = (sql: Sql) => ({
  /**
   * Takes or renews the lease of a sink. False: another instance has it. The first one ever also sets the cursors to the ends
   * of all chains: events from before the sink was configured are not sent.
   */
  lease: async (sink: string, holder: string, leaseMs: number): Promise<boolean> => {
    const [row] = await sql<{ held: boolean }[]>`
      with taken as (
        insert into siem_sinks as s (sink, holder, lease_until)
        values (${sink}, ${holder}, clock_timestamp() + ${leaseMs} * interval '1 millisecond')
            on conflict (sink) do update set holder = excluded.holder, lease_until = excluded.lease_until
               where s.holder = excluded.holder or s.lease_until < clock_timestamp()
        returning (xmax = 0) as is_first
      ), begun as (
        insert into siem_cursors (sink, month, sequence)
        select ${sink}, l.at, max(l.sequence) from audit_links l where (select is_first from taken) group by l.at
      )
      select exists (select from taken) as held`
    return row?.held === true
  },

  /** Ends the lease at once. */
  release: async (sink: string, holder: string): Promise<void> => {
    await sql`update siem_sinks set lease_until = clock_timestamp() where sink = ${sink} and holder = ${holder}`
  },

  /** The next events of the oldest month that has any, in the order of its chain. Undefined: everything is sent. */
  next: async (sink: string, limit: number): Promise<SiemBatch | undefined> => {
    const [place] = await sql<{ month: string; sequence: string; token: string | null }[]>`
      select to_char(h.month at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as month, coalesce(c.sequence, 0) as sequence, h.token
        from audit_heads h left join siem_cursors c on c.sink = ${sink} and c.month = h.month
       where exists (select from audit_links l where l.at = h.month and l.sequence > coalesce(c.sequence, 0))
       order by h.month limit 1`
    if (place === undefined) return undefined
    const { month, sequence, token } = place
    const rows = await sql<Row[]>`
      select l.sequence, encode(l.hash, 'hex') as hash, l.event_id,
             to_char(l.event_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as event_at, e.action, e.actor_kind, e.actor_id,
             e.service_key_id, e.session_id, e.target_type, e.target_id, e.user_id, e.team_id, e.request_id, e.before, e.after, e.count,
             d.details
        from audit_links l
        left join audit_events e on e.id = l.event_id and e.at = l.event_at
        left join audit_details d on d.event_id = l.event_id and d.at = l.event_at
       where l.at = ${month}::timestamptz and l.sequence > ${sequence}::bigint
       order by l.sequence limit ${limit}`
    return { month, events: rows.map((row) => toEvent(row, month)), head: token ?? undefined }
  },

  /** Moves the cursor of a month, unless another instance has the lease. Returns whether it was moved. */
  advance: async (sink: string, holder: string, { month, sequence }: Cursor): Promise<boolean> => {
    const { count } = await sql`
      insert into siem_cursors as c (sink, month, sequence)
      select s.sink, ${month}::timestamptz, ${sequence}::bigint from siem_sinks s
       where s.sink = ${sink} and s.holder = ${holder} and s.lease_until > clock_timestamp()
          on conflict (sink, month) do update set sequence = greatest(c.sequence, excluded.sequence)`
    return count > 0
  },

  /** How many linked events are not sent, and the age of the oldest in seconds. */
  lag: async (sink: string): Promise<{ readonly events: number; readonly seconds: number }> => {
    const [row] = await sql<{ events: string; seconds: number }[]>`
      select coalesce(sum(last.sequence - coalesce(c.sequence, 0)), 0) as events,
             coalesce(extract(epoch from clock_timestamp() - min(first.event_at)), 0)::float8 as seconds
        from audit_heads h
        left join siem_cursors c on c.sink = ${sink} and c.month = h.month
        join lateral (select l.sequence from audit_links l where l.at = h.month order by l.sequence desc limit 1) last on true
        join lateral (select l.event_at from audit_links l where l.at = h.month and l.sequence > coalesce(c.sequence, 0)
                       order by l.sequence limit 1) first on true`
    return { events: Number(row?.events ?? 0), seconds: Math.max(0, row?.seconds ?? 0) }
  },
})

export type SiemStore = ReturnType<typeof createSiemStore>
