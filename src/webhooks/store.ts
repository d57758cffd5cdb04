import { highestId } from '../kit/cursor.ts'
import type { Deadline } from '../kit/deadline.ts'
import { lockKeys } from '../platform/lock-keys.ts'
import type { Queryable, Sql, TransactionSql } from '../platform/postgres.ts'
import type { DeliveryError, DeliveryState, EventType, Webhook } from './model.ts'

/** From this many consecutive failures on, a webhook is probed by one request at a time. */
export const failingFrom = 5

export type WebhookRow = {
  id: string
  team_id: string | null
  url: string
  events: EventType[]
  description: string
  enabled: boolean
  status: Webhook['status']
  responsible_id: string
  created_at: Date
  updated_at: Date
  last_success_at: Date | null
  previous_secret_until: Date | null
}

export type DeliveryRow = {
  /** Of the event. */
  id: string
  type: EventType
  resource: string
  data: Record<string, unknown>
  occurred_at: Date
  state: DeliveryState
  attempts: number
  last_attempt_at: Date | null
  response_status: number | null
  error: DeliveryError | null
  delivered_at: Date | null
}

type Place = { readonly after: string | null; readonly limit: number }
/** Whose webhooks: those of a team, or of the operators (null). A webhook of another owner does not exist here. */
export type Owner = string | null

export type NewWebhookRow = Pick<WebhookRow, 'id' | 'team_id' | 'url' | 'events' | 'description' | 'responsible_id'> & {
  secret: Uint8Array
  created_at: Date
  updated_at: Date
}

/** Condition on a webhook `w`: its responsible account is active, and an operator, or an admin or the owner of the team. */
export const isAuthorized = (on: Queryable) => on`
  exists (
    select from users u
     where u.id = w.responsible_id and u.status = 'active'
       and (w.team_id is null and u.role = 'admin' or exists (
         select from team_members m
          where m.team_id = w.team_id and m.user_id = u.id and m.role in ('owner', 'admin'))))`

/** Webhooks as they are registered. A change of the webhooks of a team needs the lock of the team. */
export const createWebhookStore = (sql: Sql) => {
  const columns = (on: Queryable) => on`
    w.id, w.team_id, w.url, w.events, w.description, w.enabled, w.responsible_id, w.created_at, w.updated_at,
    w.last_success_at, w.previous_secret_until,
    case when w.gone then 'gone' when not w.enabled then 'disabled' when not ${isAuthorized(on)} then 'suspended'
         when w.failures >= ${failingFrom} then 'failing' else 'active' end as status`
  const ofOwner = (on: Queryable, owner: Owner) => on`w.team_id is not distinct from ${owner}::uuid`

  const find = async (
    deadline: Deadline,
    owner: Owner,
    id: string,
    on: Queryable = sql,
  ): Promise<WebhookRow | undefined> => {
    const [row] = await deadline.run(
      on<WebhookRow[]>`select ${columns(on)} from webhooks w where w.id = ${id} and ${ofOwner(on, owner)}`,
    )
    return row
  }

  return {
    find,

    /** Newest first. One row more than `limit`. */
    list: (deadline: Deadline, owner: Owner, { after, limit }: Place): Promise<WebhookRow[]> =>
      deadline.run(sql<WebhookRow[]>`
        select ${columns(sql)} from webhooks w
         where ${ofOwner(sql, owner)} and w.id < ${after ?? highestId} order by w.id desc limit ${limit + 1}`),

    /** Held until the commit, so that of two operators who add a webhook the second counts that of the first. */
    lockOfOperators: async (tx: TransactionSql): Promise<void> => {
      await tx`select pg_advisory_xact_lock(${lockKeys.operatorWebhooks})`
    },

    count: async (tx: TransactionSql, owner: Owner): Promise<number> => {
      const [row] = await tx<{ count: number }[]>`
        select count(*)::int as count from webhooks w where ${ofOwner(tx, owner)}`
      return row?.count ?? 0
    },

    insert: async (tx: TransactionSql, webhook: NewWebhookRow): Promise<void> => {
      await tx`insert into webhooks ${tx(webhook)}`
    },

    /**
     * Changes a webhook, and begins anew with it: it is no longer gone or failing. False: it does not exist.
     * `responsibleId` is given where the URL is set.
     */
    update: async (
      tx: TransactionSql,
      owner: Owner,
      id: string,
      changes: { url?: string; events?: EventType[]; description?: string; enabled?: boolean; responsible_id?: string },
      now: Date,
    ): Promise<boolean> => {
      const { count } = await tx`
        update webhooks w set ${tx({ ...changes, updated_at: now, failures: 0, resume_at: null })},
               gone = gone and not ${changes.enabled ?? false}
         where w.id = ${id} and ${ofOwner(tx, owner)}`
      return count === 1
    },

    /** Its deliveries are purged later. */
    remove: async (tx: TransactionSql, owner: Owner, id: string): Promise<boolean> => {
      const { count } = await tx`delete from webhooks w where w.id = ${id} and ${ofOwner(tx, owner)}`
      return count === 1
    },

    /** Makes the current secret the previous one, until then. Without a time it is valid no longer. */
    rotateSecret: async (
      tx: TransactionSql,
      owner: Owner,
      id: string,
      { secret, previousUntil, now }: { secret: Uint8Array; previousUntil: Date | null; now: Date },
    ): Promise<boolean> => {
      const { count } = await tx`
        update webhooks w
           set previous_secret = case when ${previousUntil}::timestamptz is not null then w.secret end,
               previous_secret_until = ${previousUntil}, secret = ${secret}, updated_at = ${now}
         where w.id = ${id} and ${ofOwner(tx, owner)}`
      return count === 1
    },

    /** Newest first. One row more than `limit`. Does not check whose webhook it is. */
    listDeliveries: (
      deadline: Deadline,
      webhookId: string,
      { after, limit, state }: Place & { readonly state: DeliveryState | null },
    ): Promise<DeliveryRow[]> =>
      deadline.run(sql<DeliveryRow[]>`
        select e.id, e.type, e.resource, e.data, e.occurred_at, d.state, d.attempts, d.last_attempt_at, d.response_status, d.error,
               d.delivered_at
          from webhook_deliveries d join webhook_events e on e.id = d.event_id
         where d.webhook_id = ${webhookId} and d.event_id < ${after ?? highestId}
           and (${state}::text is null or d.state = ${state}::text)
         order by d.event_id desc limit ${limit + 1}`),

    /**
     * Makes a delivery pending again, whether it was delivered, has failed or waits, for 24 hours from now on. It is sent before
     * later ones of its resource that are still pending. False: no such event was recorded for the webhook.
     */
    replay: async (tx: TransactionSql, webhookId: string, eventId: string, now: Date): Promise<boolean> => {
      const { count } = await tx`
        update webhook_deliveries
           set state = 'pending', delivered_at = null, queued_at = ${now}, due_at = ${now},
               lease_until = case when state = 'pending' then lease_until end
         where webhook_id = ${webhookId} and event_id = ${eventId}`
      return count === 1
    },

    /** As `replay`, for all deliveries that failed. Returns how many. */
    replayFailed: async (tx: TransactionSql, webhookId: string, since: Date | null, now: Date): Promise<number> => {
      const { count } = await tx`
        update webhook_deliveries d set state = 'pending', lease_until = null, queued_at = ${now}, due_at = ${now}
          from webhook_events e
         where d.webhook_id = ${webhookId} and d.state = 'failed' and e.id = d.event_id
           and (${since}::timestamptz is null or e.occurred_at >= ${since}::timestamptz)`
      return count
    },
  }
}

export type WebhookStore = ReturnType<typeof createWebhookStore>
