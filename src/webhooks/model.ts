import { closed, id, oneOf, pageOf, pageQuery, type Static, t, text, timestamp } from '../http/schema-types.ts'

/** Events for operators. */
export const eventTypes = [
  'user.created',
  'user.closed',
  'session.ended',
  'team.member_added',
  'team.member_removed',
  'access.changed',
  'generation.completed',
  'generation.failed',
  'alert.opened',
  'alert.raised',
  'alert.cleared',
] as const
export type EventType = (typeof eventTypes)[number]

/** Events for teams: those that their members can see. */
export const teamEventTypes = [
  'team.member_added',
  'team.member_removed',
  'access.changed',
  'generation.completed',
  'generation.failed',
] as const satisfies readonly EventType[]

const url = t.String({
  minLength: 1,
  maxLength: 2048,
  description:
    'Must use https on port 443 or 8443 and contain no credentials and no fragment; only public addresses are used',
})
const listOf = <const T extends readonly [string, ...string[]]>(types: T) =>
  t.Array(oneOf(types), { minItems: 1, maxItems: types.length, uniqueItems: true })
const description = text(0, 200)
const enabled = t.Boolean({ description: 'While it is off, no events are recorded for the webhook and none are sent' })

export const webhookParams = closed({ webhook_id: id('Webhook') })
export const deliveryParams = closed({ webhook_id: id('Webhook'), event_id: id('Event') })
export const teamParams = closed({ team_id: id('Team') })
export const teamWebhookParams = closed({ team_id: id('Team'), webhook_id: id('Webhook') })
export const teamDeliveryParams = closed({ team_id: id('Team'), webhook_id: id('Webhook'), event_id: id('Event') })
export const page = closed(pageQuery)

const newWebhookFor = <const T extends readonly [string, ...string[]]>(types: T) =>
  closed({ url, events: listOf(types), description: t.Optional(description) })
export const newWebhook = newWebhookFor(eventTypes)
export const newTeamWebhook = newWebhookFor(teamEventTypes)
export type NewWebhook = Static<typeof newWebhook>

const changesFor = <const T extends readonly [string, ...string[]]>(types: T) =>
  t.Object(
    {
      url: t.Optional(url),
      events: t.Optional(listOf(types)),
      description: t.Optional(description),
      enabled: t.Optional(enabled),
    },
    { additionalProperties: false, minProperties: 1 },
  )
export const webhookChanges = changesFor(eventTypes)
export const teamWebhookChanges = changesFor(teamEventTypes)
export type WebhookChanges = Static<typeof webhookChanges>

export const rotation = closed({
  overlap_hours: t.Optional(
    t.Integer({
      minimum: 0,
      maximum: 168,
      description: 'For how long requests are signed with the previous secret too; 24 unless given',
    }),
  ),
})

export const webhookStatuses = ['active', 'failing', 'disabled', 'gone', 'suspended'] as const

const fields = {
  id: id('Webhook'),
  team_id: t.Union([id('Team'), t.Null()], { description: 'Null: a webhook of the operators' }),
  url: t.String(),
  events: t.Array(oneOf(eventTypes)),
  description: t.String(),
  enabled,
  status: t.Unsafe<(typeof webhookStatuses)[number]>({
    ...oneOf(webhookStatuses),
    description:
      'failing: the last 5 attempts or more failed. gone: the receiver answered 410, which disabled the webhook. suspended: ' +
      'who set the URL is no longer an operator, or an admin or the owner of the team; who has that right and sets the URL again ' +
      'takes the webhook over',
  }),
  responsible_id: id('Who last set the URL'),
  created_at: timestamp(),
  updated_at: timestamp(),
  last_success_at: t.Union([timestamp(), t.Null()], { description: 'Accurate to one minute' }),
  previous_secret_expires_at: t.Union([timestamp(), t.Null()], {
    description: 'Until then requests are signed with the previous secret too; null: with the current one only',
  }),
}
export const webhook = closed(fields)
export type Webhook = Static<typeof webhook>
export const webhookPage = pageOf(webhook)

export const webhookWithSecret = closed({
  ...fields,
  secret: t.String({
    description: 'Verifies signatures (Standard Webhooks). Returned only here, when it is made',
  }),
})
export type WebhookWithSecret = Static<typeof webhookWithSecret>

export const deliveryStates = ['pending', 'delivered', 'failed'] as const
export type DeliveryState = (typeof deliveryStates)[number]
export const deliveryQuery = closed({ ...pageQuery, status: t.Optional(oneOf(deliveryStates)) })

export const deliveryErrors = ['timeout', 'connection', 'tls', 'address', 'url', 'status'] as const
export type DeliveryError = (typeof deliveryErrors)[number]

export const delivery = closed({
  event_id: id('Event; the webhook-id of the request'),
  type: oneOf(eventTypes),
  resource: t.String({ description: 'Events of one resource are sent in order' }),
  data: t.Unsafe<Record<string, unknown>>(
    t.Object(
      {},
      {
        additionalProperties: t.Union([t.String(), t.Number(), t.Array(t.String()), t.Null()]),
        description: 'As in the body of the request',
      },
    ),
  ),
  occurred_at: timestamp(),
  status: t.Unsafe<DeliveryState>({
    ...oneOf(deliveryStates),
    description: 'failed: no attempt succeeded for 24 hours. It can be replayed',
  }),
  attempts: t.Integer({ minimum: 0 }),
  last_attempt_at: t.Union([timestamp(), t.Null()]),
  response_status: t.Union([t.Integer(), t.Null()], { description: 'Status of the last response' }),
  error: t.Union([oneOf(deliveryErrors), t.Null()], {
    description:
      'Why the last attempt failed. address: the host has an address that is not public. status: the response was not 2xx',
  }),
  delivered_at: t.Union([timestamp(), t.Null()]),
})
export type Delivery = Static<typeof delivery>
export const deliveryPage = pageOf(delivery)

export const replay = closed({
  since: t.Optional(t.String({ format: 'date-time', description: 'Only of events since then' })),
})
export const replayed = closed({
  replayed: t.Integer({ minimum: 0, description: 'Failed deliveries that are sent again' }),
})
