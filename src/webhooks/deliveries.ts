import type { Caller } from '../access/principal.ts'
import { recorderOf } from '../audit/audit.ts'
import { Fault } from '../fault.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { RecordSecurityEvent } from '../http/security-events.ts'
import { toPage } from '../kit/cursor.ts'
import type { Delivery, DeliveryState } from './model.ts'
import type { Owned, Target, WebhookRights } from './owned.ts'
import type { Sender } from './sender.ts'
import type { DeliveryRow, WebhookStore } from './store.ts'

const recordWebhook = recorderOf('webhook')

type Dependencies = {
  readonly store: WebhookStore
  readonly rights: WebhookRights
  readonly owned: Owned
  readonly sender: Pick<Sender, 'wake'>
  readonly record: RecordSecurityEvent
}
type Filter = { readonly after: string | null; readonly limit: number; readonly state: DeliveryState | null }

const toDelivery = (row: DeliveryRow): Delivery => ({
  event_id: row.id,
  type: row.type,
  resource: row.resource,
  data: row.data,
  occurred_at: row.occurred_at.toISOString(),
  status: row.state,
  attempts: row.attempts,
  last_attempt_at: row.last_attempt_at?.toISOString() ?? null,
  response_status: row.response_status,
  error: row.error,
  delivered_at: row.delivered_at?.toISOString() ?? null,
})

/** How the events of a webhook were delivered, and sending them again. */
export const createDeliveries = ({ store, rights, owned: { change, getRow }, sender, record }: Dependencies) => ({
  listDeliveries: async (context: RequestContext, caller: Caller, target: Target, filter: Filter) => {
    await rights.requireRead(context, caller, target.owner)
    await getRow(context, target)
    const rows = await store.listDeliveries(context.deadline, target.id, filter)
    const { items, next_cursor } = toPage(rows, filter.limit)
    return { items: items.map(toDelivery), next_cursor }
  },

  /** Sends an event again, with the same id. */
  replay: async (
    context: RequestContext,
    caller: Caller,
    target: Target,
    eventId: string,
    address: string,
  ): Promise<void> => {
    const { owner, id } = target
    await change(context, caller, owner, async (tx, now) => {
      await getRow(context, target, tx)
      recordWebhook(tx, context, caller, id, 'webhook.replayed', { teamId: owner, after: { event_id: eventId } })
      if (!(await store.replay(tx, id, eventId, now))) throw new Fault('webhook.delivery_not_found')
    })
    const about = { webhook_id: id, team_id: owner, event_id: eventId }
    record(context, 'webhook.replayed', { address, by: caller.userId, ...about })
    sender.wake()
  },

  /** Sends again, in their order, all events whose delivery failed. */
  replayFailed: async (
    context: RequestContext,
    caller: Caller,
    target: Target,
    since: string | undefined,
    address: string,
  ): Promise<{ replayed: number }> => {
    const { owner, id } = target
    const replayed = await change(context, caller, owner, async (tx, now) => {
      await getRow(context, target, tx)
      recordWebhook(tx, context, caller, id, 'webhook.replayed', { teamId: owner, after: { since: since ?? null } })
      return store.replayFailed(tx, id, since === undefined ? null : new Date(since), now)
    })
    record(context, 'webhook.replayed', { address, by: caller.userId, webhook_id: id, team_id: owner, replayed })
    sender.wake()
    return { replayed }
  },
})
