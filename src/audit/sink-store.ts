import { Buffer } from 'node:buffer'
import type { Sql, TransactionSql } from '../platform/postgres.ts'
import type { AuditActor, PreparedEvent } from './event.ts'

/** A decision with how often it was made. */
export type CountedDecision = {
  /** SHA-256 of what makes decisions equal, in hexadecimal. */
  readonly fingerprint: string
  readonly content: {
    readonly actor: AuditActor
    readonly user_id: string
    readonly action: string
    readonly type: string
    readonly id: string
    readonly reason: string
    readonly request_id: string
    readonly acting_key_id: string | null
    readonly address: string | null
    readonly user_agent: string | null
  }
  readonly count: number
}

const hex = (bytes: Uint8Array | null | undefined) => (bytes ? Buffer.from(bytes).toString('hex') : null)

const toRow = ({ event, details }: PreparedEvent) => ({
  ...event,
  details_hash: hex(event.details_hash),
  mac: hex(event.mac),
  details_user: details?.user_id ?? null,
  salt: hex(details?.salt),
  details: details?.details ?? null,
})

/** Personal data of an account that was closed meanwhile is left out. */
const insertAll = async (tx: TransactionSql, events: readonly PreparedEvent[]): Promise<void> => {
  if (events.length === 0) return
  await tx`
    with given as (
      select g.id, g.action, g.actor_kind, g.actor_id, g.service_key_id, g.session_id, g.target_type, g.target_id, g.user_id, g.team_id,
             g.request_id, g.before, g.after, g.count, g.details_hash, g.mac, g.details_user, g.salt, g.details
        from json_to_recordset(${JSON.stringify(events.map(toRow))}::text::json) as g (
        id uuid, action text, actor_kind text, actor_id uuid, service_key_id uuid, session_id uuid, target_type text, target_id text,
        user_id uuid, team_id uuid, request_id text, before text, after text, count integer, details_hash text, mac text,
        details_user uuid, salt text, details text)
    ), event as (
      insert into audit_events (id, action, actor_kind, actor_id, service_key_id, session_id, target_type, target_id, user_id,
                                team_id, request_id, before, after, count, details_hash, mac)
      select id, action, actor_kind, actor_id, service_key_id, session_id, target_type, target_id, user_id, team_id, request_id,
             before::json, after::json, count, decode(details_hash, 'hex'), decode(mac, 'hex')
        from given
      returning id, at
    )
    insert into audit_details (event_id, at, user_id, salt, details)
    select e.id, e.at, g.details_user, decode(g.salt, 'hex'), g.details
      from given g join event e using (id)
     where g.details is not null
       and not exists (select from users u where u.id = g.details_user and u.status = 'deleted')`
}

export const createSinkStore = (sql: Sql) => ({
  /** Inserts events, and counts denied decisions in their minute. Rows are taken in the order of their keys: no deadlocks. */
  write: async (events: readonly PreparedEvent[], denied: readonly CountedDecision[]): Promise<void> => {
    await sql.begin(async (tx) => {
      await insertAll(tx, events)
      if (denied.length === 0) return
      await tx`
        insert into audit_decisions as d (minute, fingerprint, content, count)
        select date_trunc('minute', clock_timestamp()), decode(g.fingerprint, 'hex'), g.content, g.count
          from json_to_recordset(${JSON.stringify(denied)}::text::json) as g (fingerprint text, content json, count integer)
         order by 2
            on conflict (minute, fingerprint) do update set count = d.count + excluded.count`
    })
  },

  /**
   * Takes up to `limit` counts of minutes that are over, and inserts what `toEvents` makes of them, in one transaction. Returns how
   * many. Instances take different ones.
   */
  closeMinutes: (
    limit: number,
    toEvents: (rows: readonly (CountedDecision & { readonly minute: string })[]) => readonly PreparedEvent[],
  ): Promise<number> =>
    sql.begin(async (tx) => {
      const rows = await tx<(CountedDecision & { minute: string })[]>`
        delete from audit_decisions
         where (minute, fingerprint) in (
           select minute, fingerprint from audit_decisions where minute < date_trunc('minute', clock_timestamp())
            order by minute, fingerprint limit ${limit} for update skip locked)
        returning to_char(minute at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI"Z"') as minute, encode(fingerprint, 'hex') as fingerprint,
                  content, count`
      await insertAll(tx, toEvents(rows))
      return rows.length
    }) as Promise<number>,
})

export type SinkStore = ReturnType<typeof createSinkStore>
