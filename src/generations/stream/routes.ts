import { Elysia } from 'elysia'
import type { Guard } from '../../access/guard/guard.ts'
import type { ResourceRef } from '../../access/policy/matrix.ts'
import { contract } from '../../http/contract.ts'
import { createdAt } from '../../http/created.ts'
import { baseUrlOf } from '../../http/request-context.ts'
import type { Responder } from '../../http/responder.ts'
import { generationParams, streamQuery, streamTicket } from '../model.ts'
import type { GenerationStream } from './service.ts'
import type { StreamTickets } from './tickets.ts'

const generationOf = ({ params }: { params: Record<string, string> }): ResourceRef => ({
  type: 'generation',
  id: params['generation_id'] ?? '',
})

const events = `The current state first, then every change:
- \`status\`: {status, attempt}, first and when either changes; progress restarts at 0 with each attempt
- \`position\`: {position}, while queued: the number of jobs ahead, 0 for the next one, at most 10000; it grows when people with fewer jobs order
- \`progress\`: {progress}, of the current attempt, from 0 to 1
- \`done\`: the complete generation, when it is completed, failed or cancelled; the stream ends after it
The stream ends without \`done\` when the caller loses read access, when the generation is deleted, when the server stops, and
when the instance, or the address of the caller, has no stream left for another person and the caller has the most open.
Reconnect with \`Last-Event-ID\` to receive only what changed since; 204 means that \`done\` was received.`

type Dependencies = {
  generationStream: GenerationStream
  streamTickets: Pick<StreamTickets, 'issue'>
  guard: Guard
  responder: Pick<Responder, 'raw'>
  config: { readonly publicUrl: string | undefined }
}

export const generationStreamRoutes = ({ generationStream, streamTickets, guard, responder, config }: Dependencies) =>
  new Elysia({ prefix: '/api/v1/generations' })
    .use(guard)
    .post(
      '/:generation_id/stream-tickets',
      ({ permission, request, set, status }) => {
        const { target, ...issued } = streamTickets.issue(permission)
        return status(
          201,
          createdAt(set, () => target, { ...issued, url: baseUrlOf(config, request) + target }),
        )
      },
      {
        mayWithRecheck: ['read', generationOf],
        ...contract(
          { params: generationParams },
          { 201: streamTicket },
          {
            summary:
              'Create a ticket that opens one stream of the generation without an access token, for `EventSource`, which can send no header',
            tags: ['generations'],
            errors: ['generation.not_found'],
          },
        ),
      },
    )
    .get(
      '/:generation_id/stream',
      async ({ context, caller, permission, request }) => {
        const outgoing = { requestId: context.requestId, origin: request.headers.get('origin') }
        const headers = { 'content-type': 'text/event-stream', 'x-accel-buffering': 'no' }
        if (request.method === 'HEAD') return responder.raw(null, { ...outgoing, status: 200, headers })
        const body = await generationStream(context, caller, permission, {
          address: context.addressForLimits?.(request),
          lastEventId: request.headers.get('last-event-id'),
        })
        return body === undefined
          ? responder.raw(null, { ...outgoing, status: 204 })
          : responder.raw(body, { ...outgoing, status: 200, headers })
      },
      {
        mayWithRecheckOrTicket: ['read', generationOf],
        ...contract(
          { params: generationParams, query: streamQuery },
          {},
          {
            summary: 'Stream the state of a generation as server-sent events',
            tags: ['generations'],
            security: ['bearer', 'cookie', 'stream_ticket'],
            events,
            errors: [
              'generation.not_found',
              'generation.stream_ticket_refused',
              'generation.too_many_streams',
              'generation.too_many_streams_from_address',
              'generation.streams_full',
            ],
          },
        ),
      },
    )
