import { highestId } from '../kit/cursor.ts'
import type { Deadline } from '../kit/deadline.ts'
import type { Fragment, Sql } from '../platform/postgres.ts'
import { chainedColumns } from './chain-store.ts'

export type Place = { readonly after: string | null; readonly limit: number }

export type EventFilter = {
  readonly action: string | undefined
  readonly actorId: string | undefined
  readonly targetId: string | undefined
  readonly userId: string | undefined
  readonly teamId: string | undefined
  readonly from: Date | undefined
  readonly to: Date | undefined
}

export type ListedEvent = {
  readonly id: string
  readonly at: Date
  readonly action: string
  readonly actor_kind: string
  readonly actor_id: string | null
  readonly service_key_id: string | null
  readonly session_id: string | null
  readonly target_type: string
  readonly target_id: string | null
  readonly user_id: string | null
  readonly team_id: string | null
  readonly request_id: string
  readonly before: Record<string, unknown> | null
  readonly after: Record<string, unknown> | null
  readonly count: number
  readonly details: {
    readonly address?: string
    readonly user_agent?: string
    readonly names?: Record<string, string>
  } | null
}

/** A line of an export: all that is needed to verify it without this program. */
export type ExportedEvent = Record<string, unknown> & {
  readonly month: string
  readonly sequence: number
}

/** Reads of the audit log. Lists are newest first, by id. */
export const createListStore = (sql: Sql) => {
  const columns = sql`
    e.id, e.at, e.action, e.actor_kind, e.actor_id, e.service_key_id, e.session_id, e.target_type, e.target_id, e.user_id, e.team_id,
    e.request_id, e.before, e.after, e.count, d.details::json as details`
  const withDetails = sql`audit_events e left join audit_details d on d.event_id = e.id and d.at = e.at`

  const page = (deadline: Deadline, condition: Fragment, { after, limit }: Place): Promise<ListedEvent[]> =>
    deadline.run(sql<ListedEvent[]>`
      select ${columns} from ${withDetails}
       where e.id < ${after ?? highestId} and ${condition} order by e.id desc limit ${limit + 1}`)

  /** Also events that many denials share and that name the target among them. Each half has an index. */
  const pageOfTarget = (deadline: Deadline, targetId: string, condition: Fragment, { after, limit }: Place) => {
    const half = (ofTarget: Fragment) => sql`
      (select e.* from audit_events e
        where ${ofTarget} and e.id < ${after ?? highestId} and ${condition} order by e.id desc limit ${limit + 1})`
    const shared = sql`e.action = 'access.denied' and e.target_type = 'user' and audit_denied_ids(e.after) @> array[${targetId}::text]`
    return deadline.run(sql<ListedEvent[]>`
      select ${columns}
        from (${half(sql`e.target_id = ${targetId}`)} union all ${half(sql`${shared} and e.target_id <> ${targetId}`)}) e
        left join audit_details d on d.event_id = e.id and d.at = e.at
       order by e.id desc limit ${limit + 1}`)
  }

  return {
    list: (deadline: Deadline, filter: EventFilter, place: Place): Promise<ListedEvent[]> => {
      const { action, actorId, targetId, userId, teamId, from, to } = filter
      const condition = sql`true
        ${action === undefined ? sql`` : sql`and e.action = ${action}`}
        ${actorId === undefined ? sql`` : sql`and e.actor_id = ${actorId}`}
        ${userId === undefined ? sql`` : sql`and e.user_id = ${userId}`}
        ${teamId === undefined ? sql`` : sql`and e.team_id = ${teamId}`}
        ${from === undefined ? sql`` : sql`and e.at >= ${from}`}
        ${to === undefined ? sql`` : sql`and e.at < ${to}`}`
      return targetId === undefined
        ? page(deadline, condition, place)
        : pageOfTarget(deadline, targetId, condition, place)
    },

    /** Events of which the user is the actor or the account concerned. Each index gives a page in order. */
    listOfUser: (deadline: Deadline, userId: string, { after, limit }: Place): Promise<ListedEvent[]> => {
      const half = (condition: Fragment) => sql`
        (select e.* from audit_events e where ${condition} and e.id < ${after ?? highestId} order by e.id desc limit ${limit + 1})`
      return deadline.run(sql<ListedEvent[]>`
        select ${columns}
          from (${half(sql`e.actor_id = ${userId}`)} union all ${half(sql`e.user_id = ${userId}`)}) e
          left join audit_details d on d.event_id = e.id and d.at = e.at and d.user_id = ${userId}
         order by e.id desc limit ${limit + 1}`)
    },

    listOfTeam: (deadline: Deadline, teamId: string, { after, limit }: Place): Promise<ListedEvent[]> =>
      deadline.run(sql<ListedEvent[]>`
        select ${columns} from (select null::text as details) d, audit_events e
         where e.team_id = ${teamId} and e.id < ${after ?? highestId} order by e.id desc limit ${limit + 1}`),

    /** Linked events of a time, in the order of their links, after the cursor of the last one. */
    export: (
      deadline: Deadline,
      { from, to, after, limit }: { from: Date; to: Date; after: string; limit: number },
    ): Promise<ExportedEvent[]> => {
      const [month, sequence = '0'] = after.split(' ')
      // The driver makes a date of it, and so takes no -infinity.
      const fromMonth = month || '1970-01-01T00:00:00.000Z'
      return deadline.run(sql<ExportedEvent[]>`
        select ${chainedColumns(sql)}, encode(e.details_hash, 'hex') as details_hash, encode(e.mac, 'hex') as mac,
               encode(d.salt, 'hex') as salt, d.details,
               to_char(l.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as month, l.sequence::int as sequence,
               encode(l.row_hash, 'hex') as row_hash, encode(l.hash, 'hex') as hash
          from audit_links l
          join audit_events e on e.id = l.event_id and e.at = l.event_at
          left join audit_details d on d.event_id = e.id and d.at = e.at
         where (l.at, l.sequence) > (${fromMonth}::timestamptz, ${sequence}::bigint)
           and l.event_at >= ${from} and l.event_at < ${to} and e.at >= ${from} and e.at < ${to}
         order by l.at, l.sequence limit ${limit}`)
    },
  }
}

export type ListStore = ReturnType<typeof createListStore>
