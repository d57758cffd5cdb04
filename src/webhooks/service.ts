import { randomBytes } from 'node:crypto'
import type { Changes } from '../access/invalidation/committed-change.ts'
import type { Caller } from '../access/principal.ts'
import { recorderOf } from '../audit/audit.ts'
import { Fault, invalidInput } from '../fault.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { RecordSecurityEvent } from '../http/security-events.ts'
import type { Clock } from '../kit/clock.ts'
import { toPage } from '../kit/cursor.ts'
import { newId } from '../kit/id.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import { FetchRefused } from '../platform/safe-fetch.ts'
import { allowedPorts, maxUrlLength, parseReceiverUrl } from '../platform/safe-post.ts'
import { createDeliveries } from './deliveries.ts'
import type { NewWebhook, Webhook, WebhookChanges, WebhookWithSecret, webhookPage } from './model.ts'
import { createOwned, type Target, type WebhookRights } from './owned.ts'
import type { Sender } from './sender.ts'
import { secretText } from './signature.ts'
import type { Owner, WebhookRow, WebhookStore } from './store.ts'

const recordWebhook = recorderOf('webhook')

const secretBytes = 32
const defaultOverlapHours = 24
const maxOfOperators = 20
const maxOfTeam = 5

/** Seals the secrets of webhooks, each for the webhook it belongs to. */
export type WebhookSecrets = {
  seal(webhookId: string, secret: Uint8Array): Uint8Array
}

type Dependencies = {
  readonly store: WebhookStore
  readonly rights: WebhookRights
  readonly secrets: WebhookSecrets
  readonly changes: Changes
  readonly sender: Pick<Sender, 'wake'>
  /** Receivers in our own network that webhooks of operators may reach. */
  readonly internalHosts: readonly string[]
  readonly clock: Clock
  readonly record: RecordSecurityEvent
}

type Place = { readonly after: string | null; readonly limit: number }

const toWebhook = (row: WebhookRow, now: number): Webhook => ({
  id: row.id,
  team_id: row.team_id,
  url: row.url,
  events: row.events,
  description: row.description,
  enabled: row.enabled,
  status: row.status,
  responsible_id: row.responsible_id,
  created_at: row.created_at.toISOString(),
  updated_at: row.updated_at.toISOString(),
  last_success_at: row.last_success_at?.toISOString() ?? null,
  previous_secret_expires_at:
    row.previous_secret_until !== null && row.previous_secret_until.getTime() > now
      ? row.previous_secret_until.toISOString()
      : null,
})

/**
 * Webhooks, registered by operators for events of all accounts, and by admins of a team for events of their team.
 *
 * Guarantees: the secret of a webhook is returned once, when it is made, and stored sealed. A webhook of another owner cannot be
 * distinguished from one that does not exist. A URL is refused if it names what the sender would not connect to; the addresses
 * of its host are checked when it is used. A changed webhook takes effect with the next request that is sent.
 */
export const createWebhooks = ({
  store,
  rights,
  secrets,
  changes,
  sender,
  internalHosts,
  clock,
  record,
}: Dependencies) => {
  const owned = createOwned({ store, rights, changes, clock })
  const { change, getRow } = owned
  const checkedUrl = (url: string, owner: Owner): string => {
    try {
      return parseReceiverUrl(url, owner === null ? internalHosts : []).href
    } catch (error) {
      if (!(error instanceof FetchRefused)) throw error
      const requirement = `must be an https URL on port ${allowedPorts.join(' or ')}, of a public address, without credentials and fragment, of at most ${maxUrlLength} characters`
      throw invalidInput('body', '/url', requirement)
    }
  }

  const get = async (context: RequestContext, target: Target, on?: TransactionSql): Promise<Webhook> =>
    toWebhook(await getRow(context, target, on), clock.now())

  const requireRoom = async (tx: TransactionSql, owner: Owner) => {
    if (owner === null) await store.lockOfOperators(tx)
    const limit = owner === null ? maxOfOperators : maxOfTeam
    if ((await store.count(tx, owner)) >= limit) throw new Fault('webhook.too_many', { extensions: { limit } })
  }

  return {
    ...createDeliveries({ store, rights, owned, sender, record }),

    create: async (
      context: RequestContext,
      caller: Caller,
      owner: Owner,
      input: NewWebhook,
      address: string,
    ): Promise<WebhookWithSecret> => {
      const id = newId()
      const url = checkedUrl(input.url, owner)
      const secret = randomBytes(secretBytes)
      const created = await change(context, caller, owner, async (tx, now) => {
        await requireRoom(tx, owner)
        recordWebhook(tx, context, caller, id, 'webhook.created', { teamId: owner, after: { events: input.events } })
        await store.insert(tx, {
          id,
          team_id: owner,
          url,
          events: input.events,
          description: input.description ?? '',
          responsible_id: caller.userId,
          secret: secrets.seal(id, secret),
          created_at: now,
          updated_at: now,
        })
        return get(context, { owner, id }, tx)
      })
      record(context, 'webhook.created', { address, by: caller.userId, webhook_id: id, team_id: owner })
      return { ...created, secret: secretText(secret) }
    },

    list: async (
      context: RequestContext,
      caller: Caller,
      owner: Owner,
      place: Place,
    ): Promise<typeof webhookPage.static> => {
      await rights.requireRead(context, caller, owner)
      const { items, next_cursor } = toPage(await store.list(context.deadline, owner, place), place.limit)
      return { items: items.map((row) => toWebhook(row, clock.now())), next_cursor }
    },

    get: async (context: RequestContext, caller: Caller, target: Target): Promise<Webhook> => {
      await rights.requireRead(context, caller, target.owner)
      return get(context, target)
    },

    /** Who sets the URL becomes responsible for it. */
    update: async (
      context: RequestContext,
      caller: Caller,
      target: Target,
      { url: given, ...input }: WebhookChanges,
      address: string,
    ): Promise<Webhook> => {
      const { owner, id } = target
      const url = given === undefined ? {} : { url: checkedUrl(given, owner), responsible_id: caller.userId }
      const changed = await change(context, caller, owner, async (tx, now) => {
        recordWebhook(tx, context, caller, id, 'webhook.changed', {
          teamId: owner,
          after: { changed: Object.keys({ ...input, ...url }) },
        })
        if (!(await store.update(tx, owner, id, { ...input, ...url }, now))) throw new Fault('webhook.not_found')
        return get(context, target, tx)
      })
      const about = { webhook_id: id, team_id: owner, changed: Object.keys({ ...input, ...url }) }
      record(context, 'webhook.changed', { address, by: caller.userId, ...about })
      sender.wake()
      return changed
    },

    remove: async (context: RequestContext, caller: Caller, { owner, id }: Target, address: string): Promise<void> => {
      await change(context, caller, owner, async (tx) => {
        recordWebhook(tx, context, caller, id, 'webhook.removed', { teamId: owner })
        if (!(await store.remove(tx, owner, id))) throw new Fault('webhook.not_found')
      })
      record(context, 'webhook.removed', { address, by: caller.userId, webhook_id: id, team_id: owner })
    },

    /** Requests are signed with the new secret from the next one on, and with the previous one too for the overlap. */
    rotateSecret: async (
      context: RequestContext,
      caller: Caller,
      target: Target,
      { overlap_hours = defaultOverlapHours }: { overlap_hours?: number },
      address: string,
    ): Promise<WebhookWithSecret> => {
      const { owner, id } = target
      const secret = randomBytes(secretBytes)
      const rotated = await change(context, caller, owner, async (tx, now) => {
        const previousUntil = overlap_hours === 0 ? null : new Date(now.getTime() + overlap_hours * 3_600_000)
        const given = { secret: secrets.seal(id, secret), previousUntil, now }
        recordWebhook(tx, context, caller, id, 'webhook.secret_rotated', { teamId: owner, after: { overlap_hours } })
        if (!(await store.rotateSecret(tx, owner, id, given))) throw new Fault('webhook.not_found')
        return get(context, target, tx)
      })
      const about = { webhook_id: id, team_id: owner, overlap_hours }
      record(context, 'webhook.secret_rotated', { address, by: caller.userId, ...about })
      return { ...rotated, secret: secretText(secret) }
    },
  }
}

export type Webhooks = ReturnType<typeof createWebhooks>
