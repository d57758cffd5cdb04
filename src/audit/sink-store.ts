import { Buffer } from 'node:buffer'
import { allInOrder } from '../kit/async.ts'
import { lockKeys } from '../platform/lock-keys.ts'
import type { Sql, TransactionSql } from '../platform/postgres.ts'
import type { PreparedEvent } from './event.ts'

/** Rows of one statement. */
export const maxBatch = 500

/** Denied decisions of one minute, as JSON. */
export type StoredPart = {
  readonly content: string
  /** How many different ones it holds. */
  readonly size: number
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

const batchesOf = function* (events: readonly PreparedEvent[]) {
  for (let at = 0; at < events.length; at += maxBatch) yield events.slice(at, at + maxBatch)
}

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
  /** Inserts events, and stores the denied decisions of the current minute. Waits for no lock. */
  write: async (events: readonly PreparedEvent[], denied: StoredPart | undefined): Promise<void> => {
    await sql.begin((tx) =>
      allInOrder([
        () => insertAll(tx, events),
        async () => {
          if (denied !== undefined) {
            await tx`insert into audit_denials (decisions, content) values (${denied.size}, ${denied.content})`
          }
        },
      ]),
    )
  },

  /**
   * Takes the parts of the oldest minute that is over, up to about `most` decisions, and inserts what `toEvents` makes of them,
   * in one transaction. Returns how many parts: none also while another instance does this. A minute counts as over a little
   * later, so that a slow transaction is not late.
   */
  closeMinute: (
    most: number,
    toEvents: (parts: readonly string[], minute: string) => Promise<readonly PreparedEvent[]>,
  ): Promise<number> =>
    sql.begin(async (tx) => {
      const [lock] = await tx<{ held: boolean }[]>`select pg_try_advisory_xact_lock(${lockKeys.auditDenials}) as held`
      if (lock?.held !== true) return 0
      const parts = await tx<{ minute: string; content: string }[]>`
        delete from audit_denials
         where (minute, id) in (
           select minute, id
             from (select d.minute, d.id, sum(d.decisions) over (order by d.id) - d.decisions as before
                     from audit_denials d
                    where d.minute = (select min(minute) from audit_denials
                                       where minute < date_trunc('minute', clock_timestamp() - interval '2 s'))) part
            where before < ${most})
        returning to_char(minute at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI"Z"') as minute, content`
      const [first] = parts
      if (first === undefined) return 0
      const contents = parts.map(({ content }) => content)
      for (const events of batchesOf(await toEvents(contents, first.minute))) await insertAll(tx, events)
      return parts.length
    }) as Promise<number>,
})

export type SinkStore = ReturnType<typeof createSinkStore>
