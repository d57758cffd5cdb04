import { Elysia } from 'elysia'
import type { Guard } from '../access/guard/guard.ts'
import { contract } from '../http/contract.ts'
import { createdAt } from '../http/created.ts'
import { noContent, toPlace } from '../http/schema-types.ts'
import * as model from './model.ts'
import type { Webhooks } from './service.ts'

const tags = ['webhooks']
const sensitive = 'session.reauthentication_required'

type Dependencies = { webhooks: Webhooks; guard: Guard; addressOf: (request: Request) => string }

const summaries = {
  create: 'Register a webhook. The response is the only one that contains its secret',
  list: 'Webhooks, newest first',
  get: 'One webhook',
  update: 'Change a webhook. Who sets the URL becomes responsible for it. A webhook that failed is tried again at once',
  remove: 'Remove a webhook; events that wait for it are not sent any more',
  rotate: 'Make a new secret. Requests are signed with the previous one too, for the overlap',
  deliveries: 'Events of the last 30 days that were recorded for a webhook, newest first, and how their delivery went',
  replay: 'Send an event again, with the same webhook-id, for up to 24 hours',
  replayFailed: 'Send all events again whose delivery failed, in their order',
} as const

/** For operators of the platform: webhooks for events of all accounts. */
export const operatorWebhookRoutes = ({ webhooks, guard, addressOf }: Dependencies) => {
  const refused = ['access.admins_only'] as const
  const unknown = [...refused, 'webhook.not_found'] as const
  const { webhookParams: params, deliveryParams } = model
  const target = (id: string) => ({ owner: null, id })
  return new Elysia({ prefix: '/api/v1/webhooks' })
    .use(guard)
    .post(
      '',
      async ({ context, caller, body, request, set, status }) => {
        const webhook = await webhooks.create(context, caller, null, body, addressOf(request))
        return status(
          201,
          createdAt(set, ({ id }) => `/api/v1/webhooks/${id}`, webhook),
        )
      },
      {
        recently: 'operator',
        ...contract(
          { body: model.newWebhook },
          { 201: model.webhookWithSecret },
          { summary: summaries.create, tags, errors: [...refused, 'webhook.too_many', sensitive] },
        ),
      },
    )
    .get('', ({ context, caller, query }) => webhooks.list(context, caller, null, toPlace(query)), {
      operator: true,
      ...contract(
        { query: model.page },
        { 200: model.webhookPage },
        { summary: summaries.list, tags, errors: refused },
      ),
    })
    .get('/:webhook_id', ({ context, caller, params }) => webhooks.get(context, caller, target(params.webhook_id)), {
      operator: true,
      ...contract({ params }, { 200: model.webhook }, { summary: summaries.get, tags, errors: unknown }),
    })
    .patch(
      '/:webhook_id',
      ({ context, caller, params, body, request }) =>
        webhooks.update(context, caller, target(params.webhook_id), body, addressOf(request)),
      {
        recently: 'operator',
        ...contract(
          { params, body: model.webhookChanges },
          { 200: model.webhook },
          { summary: summaries.update, tags, errors: [...unknown, sensitive] },
        ),
      },
    )
    .delete(
      '/:webhook_id',
      async ({ context, caller, params, request, status }) => {
        await webhooks.remove(context, caller, target(params.webhook_id), addressOf(request))
        return status(204, undefined)
      },
      {
        recently: 'operator',
        ...contract(
          { params },
          { 204: noContent },
          { summary: summaries.remove, tags, errors: [...unknown, sensitive] },
        ),
      },
    )
    .post(
      '/:webhook_id/secret',
      ({ context, caller, params, body, request }) =>
        webhooks.rotateSecret(context, caller, target(params.webhook_id), body, addressOf(request)),
      {
        recently: 'operator',
        ...contract(
          { params, body: model.rotation },
          { 200: model.webhookWithSecret },
          { summary: summaries.rotate, tags, errors: [...unknown, sensitive] },
        ),
      },
    )
    .get(
      '/:webhook_id/deliveries',
      ({ context, caller, params, query }) =>
        webhooks.listDeliveries(context, caller, target(params.webhook_id), {
          ...toPlace(query),
          state: query.status ?? null,
        }),
      {
        operator: true,
        ...contract(
          { params, query: model.deliveryQuery },
          { 200: model.deliveryPage },
          { summary: summaries.deliveries, tags, errors: unknown },
        ),
      },
    )
    .post(
      '/:webhook_id/deliveries/:event_id/replay',
      async ({ context, caller, params, request, status }) => {
        await webhooks.replay(context, caller, target(params.webhook_id), params.event_id, addressOf(request))
        return status(204, undefined)
      },
      {
        recently: 'operator',
        ...contract(
          { params: deliveryParams },
          { 204: noContent },
          { summary: summaries.replay, tags, errors: [...unknown, 'webhook.delivery_not_found', sensitive] },
        ),
      },
    )
    .post(
      '/:webhook_id/replay',
      ({ context, caller, params, body, request }) =>
        webhooks.replayFailed(context, caller, target(params.webhook_id), body.since, addressOf(request)),
      {
        recently: 'operator',
        ...contract(
          { params, body: model.replay },
          { 200: model.replayed },
          { summary: summaries.replayFailed, tags, errors: [...unknown, sensitive] },
        ),
      },
    )
}

/** For admins and the owner of a team: webhooks for events of the team. */
export const teamWebhookRoutes = ({ webhooks, guard, addressOf }: Dependencies) => {
  const refused = ['team.not_found', 'team.role_too_low'] as const
  const unknown = [...refused, 'webhook.not_found'] as const
  const { teamWebhookParams: params, teamDeliveryParams } = model
  const target = ({ team_id, webhook_id }: { team_id: string; webhook_id: string }) => ({
    owner: team_id,
    id: webhook_id,
  })
  return new Elysia({ prefix: '/api/v1/teams/:team_id/webhooks' })
    .use(guard)
    .post(
      '',
      async ({ context, caller, params, body, request, set, status }) => {
        const { team_id } = params
        const webhook = await webhooks.create(context, caller, team_id, body, addressOf(request))
        return status(
          201,
          createdAt(set, ({ id }) => `/api/v1/teams/${team_id}/webhooks/${id}`, webhook),
        )
      },
      {
        signedIn: true,
        ...contract(
          { params: model.teamParams, body: model.newTeamWebhook },
          { 201: model.webhookWithSecret },
          { summary: `${summaries.create}; for admins and the owner`, tags, errors: [...refused, 'webhook.too_many'] },
        ),
      },
    )
    .get('', ({ context, caller, params, query }) => webhooks.list(context, caller, params.team_id, toPlace(query)), {
      signedIn: true,
      ...contract(
        { params: model.teamParams, query: model.page },
        { 200: model.webhookPage },
        { summary: summaries.list, tags, errors: refused },
      ),
    })
    .get('/:webhook_id', ({ context, caller, params }) => webhooks.get(context, caller, target(params)), {
      signedIn: true,
      ...contract({ params }, { 200: model.webhook }, { summary: summaries.get, tags, errors: unknown }),
    })
    .patch(
      '/:webhook_id',
      ({ context, caller, params, body, request }) =>
        webhooks.update(context, caller, target(params), body, addressOf(request)),
      {
        signedIn: true,
        ...contract(
          { params, body: model.teamWebhookChanges },
          { 200: model.webhook },
          { summary: summaries.update, tags, errors: unknown },
        ),
      },
    )
    .delete(
      '/:webhook_id',
      async ({ context, caller, params, request, status }) => {
        await webhooks.remove(context, caller, target(params), addressOf(request))
        return status(204, undefined)
      },
      {
        signedIn: true,
        ...contract({ params }, { 204: noContent }, { summary: summaries.remove, tags, errors: unknown }),
      },
    )
    .post(
      '/:webhook_id/secret',
      ({ context, caller, params, body, request }) =>
        webhooks.rotateSecret(context, caller, target(params), body, addressOf(request)),
      {
        signedIn: true,
        ...contract(
          { params, body: model.rotation },
          { 200: model.webhookWithSecret },
          { summary: summaries.rotate, tags, errors: unknown },
        ),
      },
    )
    .get(
      '/:webhook_id/deliveries',
      ({ context, caller, params, query }) =>
        webhooks.listDeliveries(context, caller, target(params), { ...toPlace(query), state: query.status ?? null }),
      {
        signedIn: true,
        ...contract(
          { params, query: model.deliveryQuery },
          { 200: model.deliveryPage },
          { summary: summaries.deliveries, tags, errors: unknown },
        ),
      },
    )
    .post(
      '/:webhook_id/deliveries/:event_id/replay',
      async ({ context, caller, params, request, status }) => {
        await webhooks.replay(context, caller, target(params), params.event_id, addressOf(request))
        return status(204, undefined)
      },
      {
        signedIn: true,
        ...contract(
          { params: teamDeliveryParams },
          { 204: noContent },
          { summary: summaries.replay, tags, errors: [...unknown, 'webhook.delivery_not_found'] },
        ),
      },
    )
    .post(
      '/:webhook_id/replay',
      ({ context, caller, params, body, request }) =>
        webhooks.replayFailed(context, caller, target(params), body.since, addressOf(request)),
      {
        signedIn: true,
        ...contract(
          { params, body: model.replay },
          { 200: model.replayed },
          { summary: summaries.replayFailed, tags, errors: unknown },
        ),
      },
    )
}
