import { Elysia } from 'elysia'
import type { Guard } from '../../access/guard.ts'
import type { ResourceRef } from '../../access/policy/matrix.ts'
import { contract } from '../../http/contract.ts'
import type { Responder } from '../../http/responder.ts'
import { generationParams } from '../model.ts'
import type { GenerationStream } from './service.ts'

const theGeneration = ({ params }: { params: Record<string, string> }): ResourceRef => ({
  type: 'generation',
  id: params['generation_id'] ?? '',
})

const events = `As it goes, and then it ends:
- \`status\`: {status, attempt}, at the beginning and when either changes; progress begins anew with each attempt
- \`position\`: {position}, while it is queued: how many go before it, 0 for the next; not counted past 10000
- \`progress\`: {progress}, from 0 to 1 of the attempt under way
- \`done\`: the whole generation, when it is completed, failed or cancelled
It ends without \`done\` when the caller may read it no more, when it is deleted, and when this instance stops.`

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
    async ({ context, caller, right, request }) => {
      const outgoing = { requestId: context.requestId, origin: request.headers.get('origin') }
      const headers = { 'content-type': 'text/event-stream', 'x-accel-buffering': 'no' }
      if (request.method === 'HEAD') return responder.raw(null, { ...outgoing, status: 200, headers })
      const body = await generationStream(context, caller, right, request.headers.get('last-event-id'))
      return body === undefined
        ? responder.raw(null, { ...outgoing, status: 204 })
        : responder.raw(body, { ...outgoing, status: 200, headers })
    },
    {
      mayGoOn: ['read', theGeneration],
      ...contract(
        { params: generationParams },
        {},
        {
          summary: 'How one generation goes, as it goes: server-sent events',
          tags: ['generations'],
          events,
          errors: ['generation.not_found', 'generation.too_many_streams', 'generation.streams_full'],
        },
      ),
    },
  )
