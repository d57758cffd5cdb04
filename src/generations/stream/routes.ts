import { Elysia } from 'elysia'
import type { Guard } from '../../access/guard/guard.ts'
import type { ResourceRef } from '../../access/policy/matrix.ts'
import { contract } from '../../http/contract.ts'
import type { Responder } from '../../http/responder.ts'
import { generationParams } from '../model.ts'
import type { GenerationStream } from './service.ts'

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

export const generationStreamRoutes = ({
  generationStream,
  guard,
  responder,
}: {
  generationStream: GenerationStream
  guard: Guard
  responder: Pick<Responder, 'raw'>
}) =>
  new Elysia({ prefix: '/api/v1/generations' }).use(guard).get(
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
      mayWithRecheck: ['read', generationOf],
      ...contract(
        { params: generationParams },
        {},
        {
          summary: 'Stream the state of a generation as server-sent events',
          tags: ['generations'],
          events,
          errors: [
            'generation.not_found',
            'generation.too_many_streams',
            'generation.too_many_streams_from_address',
            'generation.streams_full',
          ],
        },
      ),
    },
  )
