import type { Queryable, Sql } from '../platform/postgres.ts'
import type { DeliveryError, EventType } from './model.ts'
import { failingFrom, isAuthorized } from './store.ts'

/** A delivery leased to this sender. */
export type LeasedDelivery = {
  readonly webhook_id: string
  readonly event_id: string
  /** Counted from 1, over all attempts. The fencing token: a later lease has a higher one. */
  readonly attempts: number
  readonly queued_at: Date
  readonly type: EventType
  readonly data: Record<string, unknown>
  readonly occurred_at: Date
  readonly url: string
  /** With the port where the URL names one: receivers that share it share a limit. */
  readonly host: string
  /** Null: registered by operators, who may reach receivers in our own network. */
  readonly team_id: string | null
  /** Consecutive failures of the webhook before this attempt. */
  readonly failures: number
  readonly secret: Uint8Array
  readonly previous_secret: Uint8Array | null
}

/** Resources of a webhook that a lease looks at before it looks at each delivery. */
const maxExamined = 64

type Fence = Pick<LeasedDelivery, 'webhook_id' | 'event_id' | 'attempts'>

export type Failure = {
  readonly error: DeliveryError
  readonly status: number | null
  /** When to try again; null: never. */
  readonly retryAt: Date | null
  readonly now: Date
  /** Disables the webhook. */
  readonly isGone: boolean
}

export type Pause = { readonly minMs: number; readonly maxMs: number }

type Leasing = {
  readonly now: Date
  /** After this time the events are due that no sender has noticed before. */
  readonly settleMs: number
  readonly leaseUntil: Date
  readonly limit: number
  readonly perWebhook: number
  /** To one public host, over all webhooks. */
  readonly perHost: number
  /** Of one team, over its webhooks. */
  readonly perTeam: number
  /** How many deliveries this sender has under way, of each webhook, host and team. */
  readonly underWay: UnderWay
}

export type UnderWay = Readonly<Record<'webhooks' | 'hosts' | 'teams', ReadonlyMap<string, number>>>

/**
 * Leases up to `limit` deliveries that are due, the oldest of each webhook first, and no delivery before an earlier pending
 * one of its webhook and resource has ended. Webhooks with the fewest under way come first. No host and no team gets more than
 * its limit under way from this sender. Of up to `limit` failing webhooks it leases one delivery, due or not, that was tried
 * least recently: so one that always fails does not keep its webhook failing. Locks the deliveries for update and skips locked
 * ones, so it never waits. A delivery whose lease has expired is leased again.
 *
 * The time to settle begins with the clock of Postgres during the statement, which sees committed events only: the caller
 * may have waited for a connection since it read its clock.
 *
 * Cost: one index probe for each webhook with pending deliveries, and one for each of the first 64 resources that have pending
 * deliveries; deliveries behind an earlier one of these resources are read and skipped. Beyond them one probe for each
 * delivery that waits behind an earlier one. Without pending deliveries two probes.
 */
const createLease = (sql: Sql) => {
  /** Condition on a delivery `d`: the first of its resource that is pending, and not under way. */
  const isFirst = (on: Queryable, now: Date) => on`
    d.state = 'pending' and coalesce(d.lease_until <= ${now}, true)
    and (
      select b.ordinal from webhook_deliveries b
       where b.webhook_id = d.webhook_id and b.resource = d.resource and b.state <> 'delivered' and b.state <> 'failed'
         and b.ordinal < d.ordinal
       order by b.ordinal limit 1) is null`
  /**
   * The oldest due deliveries of the webhook `open.id`, one of each of up to `maxExamined` resources, with whether it is the first
   * one there. `seen` are the resources so far: the others of a resource are skipped by a comparison, without a look at its index.
   */
  const examined = (on: Queryable, now: Date) => {
    const columns = on`d.resource, d.ordinal, (${isFirst(on, now)}) as is_first`
    const ofWebhook = on`d.webhook_id = open.id and d.state = 'pending' and d.due_at <= ${now}`
    return on`examined (ordinal, is_first, seen) as (
      (select d.ordinal, d.is_first, array[d.resource] from (
         select ${columns} from webhook_deliveries d where ${ofWebhook} order by d.ordinal limit 1) d)
      union all
      select d.ordinal, d.is_first, x.seen || d.resource
        from examined x cross join lateral (
          select ${columns} from webhook_deliveries d
           where ${ofWebhook} and d.ordinal > x.ordinal and d.resource <> all (x.seen) order by d.ordinal limit 1) d
       where cardinality(x.seen) < ${maxExamined}
    )`
  }
  /** Of the URL of a webhook `w`. */
  const hostOf = (on: Queryable) => on`lower(split_part(split_part(w.url, '/', 3), '?', 1))`
  const counts = (on: Queryable, of: ReadonlyMap<string, number>) =>
    on`unnest(${[...of.keys()]}::text[], ${[...of.values()]}::integer[])`
  return ({
    now,
    settleMs,
    leaseUntil,
    limit,
    perWebhook,
    perHost,
    perTeam,
    underWay,
  }: Leasing): Promise<LeasedDelivery[]> => sql`
    with recursive noticed as (
      update webhook_deliveries
         set due_at = greatest(${now}, clock_timestamp()) + ${settleMs}::float8 * interval '1 millisecond'
       where due_at is null and state = 'pending'
    ), waiting (id) as (
      (select webhook_id from webhook_deliveries where state = 'pending' order by webhook_id limit 1)
      union all
      select (select d.webhook_id from webhook_deliveries d
               where d.state = 'pending' and d.webhook_id > waiting.id order by d.webhook_id limit 1)
        from waiting where waiting.id is not null
    ), open as (
      select w.id, w.failures >= ${failingFrom} as is_failing, places.host, w.team_id,
             ${perWebhook} - coalesce(busy.count, 0) as room,
             ${perHost} - coalesce(of_host.count, 0) as host_room,
             case when w.team_id is not null then ${perTeam} - coalesce(of_team.count, 0) end as team_room
        from waiting join webhooks w using (id)
        cross join lateral (select ${hostOf(sql)} as host) places
        left join ${counts(sql, underWay.webhooks)} busy (key, count) on busy.key = w.id::text
        left join ${counts(sql, underWay.hosts)} of_host (key, count) on of_host.key = places.host
        left join ${counts(sql, underWay.teams)} of_team (key, count) on of_team.key = w.team_id::text
       where w.enabled and coalesce(w.resume_at <= ${now}, true) and ${isAuthorized(sql)}
         and coalesce(of_host.count, 0) < ${perHost} and coalesce(of_team.count, 0) < ${perTeam}
       order by coalesce(busy.count, 0), random()
    ), found as (
      (select d.webhook_id, d.event_id, d.ordinal, host, host_room, team_id, team_room from open cross join lateral (
         with recursive ${examined(sql, now)}, due (ordinal) as (
           (select ordinal from examined where is_first)
           union all
           (select d.ordinal from examined x cross join lateral (
              select d.ordinal from webhook_deliveries d
               where d.webhook_id = open.id and d.ordinal > x.ordinal and d.due_at <= ${now} and d.resource <> all (x.seen)
                 and ${isFirst(sql, now)}
               order by d.ordinal limit greatest(open.room, 0)) d
             where cardinality(x.seen) = ${maxExamined})
           limit greatest(open.room, 0)
         )
         select d.webhook_id, d.event_id, d.ordinal from due cross join lateral (
           select d.webhook_id, d.event_id, d.ordinal from webhook_deliveries d
            where d.webhook_id = open.id and d.ordinal = due.ordinal and ${isFirst(sql, now)}
            limit 1 for update skip locked) d
          where not open.is_failing) d
        limit ${limit})
      union all
      (select d.webhook_id, d.event_id, d.ordinal, host, host_room, team_id, team_room from open cross join lateral (
         select d.webhook_id, d.event_id, d.ordinal from webhook_deliveries d
          where open.is_failing and open.room = ${perWebhook} and d.webhook_id = open.id and d.due_at is not null
            and ${isFirst(sql, now)}
          order by d.last_attempt_at nulls first, d.ordinal limit 1 for update skip locked) d
        limit ${limit})
    ), chosen as (
      select webhook_id, event_id from (
        select webhook_id, event_id, host_room, team_room, row_number() over (partition by host order by ordinal) as of_host,
               row_number() over (partition by team_id order by ordinal) as of_team from found) f
       where of_host <= host_room and coalesce(of_team <= team_room, true)
    )
    update webhook_deliveries d
       set attempts = d.attempts + 1, last_attempt_at = ${now}, lease_until = ${leaseUntil}
      from chosen, webhooks w, webhook_events e
     where d.webhook_id = chosen.webhook_id and d.event_id = chosen.event_id and w.id = d.webhook_id and e.id = d.event_id
    returning d.webhook_id, d.event_id, d.attempts, d.queued_at, e.type, e.data, e.occurred_at, w.url,
              ${hostOf(sql)} as host, w.team_id, w.failures, w.secret,
              case when w.previous_secret_until > ${now} then w.previous_secret end as previous_secret`
}

/** What a sender does with deliveries. Every result requires that its attempt is the last one, and else changes nothing. */
export const createDeliveryStore = (sql: Sql) => {
  const isAttempt = (on: Queryable, { webhook_id, event_id, attempts }: Fence) => on`
    webhook_id = ${webhook_id} and event_id = ${event_id} and attempts = ${attempts} and state = 'pending'`

  return {
    lease: createLease(sql),

    /** The webhook is no longer failing. */
    complete: async (attempt: Fence, status: number, now: Date): Promise<void> => {
      await sql`
        with done as (
          update webhook_deliveries
             set state = 'delivered', delivered_at = ${now}, lease_until = null, response_status = ${status}, error = null
           where ${isAttempt(sql, attempt)} returning webhook_id
        )
        update webhooks set failures = 0, resume_at = null, last_success_at = ${now}
         where id in (select webhook_id from done)
           and (failures > 0 or coalesce(last_success_at < ${now}::timestamptz - interval '1 minute', true))`
    },

    /** Counts the failure of the webhook too: a failing one pauses, each time for twice as long, up to a limit. */
    fail: async (attempt: Fence, { error, status, retryAt, now, isGone }: Failure, pause: Pause): Promise<void> => {
      await sql`
        with tried as (
          update webhook_deliveries
             set state = case when ${retryAt}::timestamptz is null then 'failed' else 'pending' end,
                 due_at = coalesce(${retryAt}::timestamptz, due_at), lease_until = null, response_status = ${status}, error = ${error}
           where ${isAttempt(sql, attempt)} returning webhook_id
        )
        update webhooks
           set failures = failures + 1,
               resume_at = case when failures + 1 >= ${failingFrom} then ${now}::timestamptz + interval '1 millisecond' * least(
                 ${pause.minMs} * power(2, least(failures + 1 - ${failingFrom}, 30)), ${pause.maxMs}) end,
               gone = gone or ${isGone}, enabled = enabled and not ${isGone}
         where id in (select webhook_id from tried)`
    },

    /** Gives a lease back: the attempt was not made. */
    release: async (attempt: Fence): Promise<void> => {
      await sql`update webhook_deliveries set lease_until = null where ${isAttempt(sql, attempt)}`
    },

    /** Makes all waiting deliveries of a webhook due: its receiver is back. */
    resume: async (webhookId: string, now: Date): Promise<void> => {
      await sql`
        update webhook_deliveries set due_at = ${now}
         where webhook_id = ${webhookId} and state = 'pending' and due_at > ${now} and lease_until is null`
    },

    /**
     * Ends deliveries that were queued before `hopelessBefore` to webhooks that have answered none since, and removes events
     * before `eventsBefore`, with their deliveries, and deliveries whose webhook is removed. At most `limit` of each.
     */
    purge: async ({
      hopelessBefore,
      eventsBefore,
      limit,
    }: {
      hopelessBefore: Date
      eventsBefore: Date
      limit: number
    }) => {
      await sql`
        update webhook_deliveries d set state = 'failed', lease_until = null
         where (webhook_id, event_id) in (
           select p.webhook_id, p.event_id from webhook_deliveries p join webhooks w on w.id = p.webhook_id
            where p.state = 'pending' and p.queued_at < ${hopelessBefore} and coalesce(w.last_success_at < p.queued_at, true)
            limit ${limit} for update of p skip locked)`
      await sql`
        delete from webhook_deliveries where (webhook_id, event_id) in (
          select d.webhook_id, d.event_id from webhook_deliveries d
           where not exists (select from webhooks w where w.id = d.webhook_id) limit ${limit} for update skip locked)`
      await sql`
        delete from webhook_events where id in (
          select id from webhook_events where occurred_at < ${eventsBefore} order by occurred_at limit ${limit})`
    },
  }
}

export type DeliveryStore = ReturnType<typeof createDeliveryStore>
