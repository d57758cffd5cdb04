import { Elysia } from 'elysia'
import type { Guard } from '../access/guard.ts'
import type { ResourceRef } from '../access/model.ts'
import { parseRange } from '../kit/byte-range.ts'
import { namesTag } from '../kit/entity-tag.ts'
import type { Responder } from '../responder.ts'
import { contract, nothing, toPlace } from '../schema.ts'
import * as model from './model.ts'
import type { MediaService } from './service.ts'
import { maxUploadBytes, refusals, type Uploads } from './uploads.ts'

const tags = ['media']

/** What is sent in one piece, because Bun tells no length of a stream. */
const maxWholeBytes = 1_048_576

const itsGeneration = ({ params }: { params: Record<string, string> }): ResourceRef => ({
  type: 'generation',
  id: params['generation_id'] ?? '',
})

export const mediaRoutes = ({
  media,
  uploads,
  guard,
  responder,
}: {
  media: MediaService
  uploads: Uploads
  guard: Guard
  responder: Pick<Responder, 'raw'>
}) =>
  new Elysia({ prefix: '/api/v1' })
    .use(guard)
    .get(
      '/generations/:generation_id/media',
      ({ call, params, query }) => media.list(call, params.generation_id, toPlace(query)),
      {
        may: ['read', itsGeneration],
        ...contract(
          { params: model.ofGeneration, query: model.page },
          { 200: model.mediaPage },
          {
            summary: 'What came of a generation; nothing until it is completed',
            tags,
            faults: ['generation.not_found'],
          },
        ),
      },
    )
    .post(
      '/media',
      async ({ call, caller, request, status }) => status(201, await uploads.take(call, caller, request)),
      {
        signedIn: true,
        ...contract(
          {},
          { 201: model.media },
          {
            summary: 'Upload a picture, which is its uploader’s alone',
            tags,
            upload: { types: model.contentTypes, maxBytes: maxUploadBytes },
            faults: [...Object.values(refusals), 'media.type_contradicted', 'media.busy', 'media.unavailable'],
          },
        ),
      },
    )
    .get('/media', ({ call, caller, query }) => uploads.list(call, caller, toPlace(query)), {
      signedIn: true,
      ...contract(
        { query: model.page },
        { 200: model.mediaPage },
        { summary: 'What the caller uploaded, newest first', tags },
      ),
    })
    .get('/media/:media_id', ({ call, caller, params }) => media.get(call, caller, params.media_id), {
      signedIn: true,
      ...contract(
        { params: model.mediaParams },
        { 200: model.media },
        {
          summary: 'What it is; needs `read` on its generation, or to have uploaded it',
          tags,
          faults: ['media.not_found'],
        },
      ),
    })
    .delete(
      '/media/:media_id',
      async ({ call, caller, params, status }) => {
        await media.remove(call, caller, params.media_id)
        return status(204, undefined)
      },
      {
        signedIn: true,
        ...contract(
          { params: model.mediaParams },
          { 204: nothing },
          {
            summary: 'Delete it, bytes and all; needs `delete` on its generation, or to have uploaded it',
            tags,
            faults: ['media.not_found', 'access.denied'],
          },
        ),
      },
    )
    .get(
      '/media/:media_id/content',
      async ({ call, caller, params, query: { variant = 'original' }, request }) => {
        const content = await media.getContent(call, caller, params.media_id, variant)
        const send = (status: number, body: BodyInit | null, headers: Record<string, string>) =>
          responder.raw(body, {
            status,
            requestId: call.requestId,
            origin: request.headers.get('origin'),
            // It never changes, but who may have it does: kept, and asked about each time.
            headers: { etag: content.tag, 'cache-control': 'private, no-cache', ...headers },
          })
        if (namesTag(request.headers.get('if-none-match'), content.tag)) return send(304, null, {})
        const condition = request.headers.get('if-range')
        const isSame = condition === null || condition === content.tag
        const range = isSame ? parseRange(request.headers.get('range')) : undefined
        const { stream, first, length, total } = await media.open(call, content, range)
        const isPart = range !== undefined
        const headers = {
          'content-type': content.contentType,
          'content-length': String(length),
          'content-disposition': `inline; filename="${content.fileName}"`,
          'accept-ranges': 'bytes',
          ...(isPart && { 'content-range': `bytes ${first}-${first + length - 1}/${total}` }),
        }
        // A HEAD is answered like this too: what it would have been is counted and left out on the way.
        const body = length > maxWholeBytes ? stream : await call.deadline.run(new Response(stream).arrayBuffer())
        return send(isPart ? 206 : 200, body, headers)
      },
      {
        signedIn: true,
        ...contract(
          { params: model.mediaParams, query: model.contentQuery },
          {},
          {
            summary: 'Its bytes; needs `download` on its generation, or to have uploaded it',
            tags,
            bytes: model.contentTypes,
            faults: ['media.not_found', 'media.range_not_satisfiable', 'media.unavailable'],
          },
        ),
      },
    )
