import { Elysia } from 'elysia'
import type { Guard } from '../access/guard.ts'
import type { ResourceRef } from '../access/model.ts'
import { parseRange } from '../kit/byte-range.ts'
import { namesTag } from '../kit/entity-tag.ts'
import type { Responder } from '../responder.ts'
import { contract, toPlace } from '../schema.ts'
import * as model from './model.ts'
import type { MediaService } from './service.ts'

const tags = ['media']

/** What is sent in one piece, because Bun tells no length of a stream. */
const maxWholeBytes = 1_048_576

/**
 * What a browser lets the content do that is opened by itself, in a tab: show itself, in the way that browsers show pictures
 * and films (an element with a style), and nothing else.
 */
const contentPolicy = [
  "default-src 'none'",
  "img-src 'self'",
  "media-src 'self'",
  "style-src 'unsafe-inline'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  // Without scripts, forms, plugins or windows; but of its own origin, since a film is fetched by its page once more.
  'sandbox allow-same-origin',
].join('; ')

const itsGeneration = ({ params }: { params: Record<string, string> }): ResourceRef => ({
  type: 'generation',
  id: params['generation_id'] ?? '',
})

const theMedia = ({ params }: { params: Record<string, string> }): ResourceRef => ({
  type: 'media',
  id: params['media_id'] ?? '',
})

const aboutMedia = (asked: { params: Record<string, string> }) => [theMedia(asked)]

export const mediaRoutes = ({
  media,
  guard,
  responder,
}: {
  media: MediaService
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
    .get('/media/:media_id', ({ call, params }) => media.get(call, params.media_id), {
      may: ['read', theMedia],
      ...contract(
        { params: model.mediaParams },
        { 200: model.media },
        { summary: 'What it is; needs `read` on its generation', tags, faults: ['media.not_found'] },
      ),
    })
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
            headers: {
              etag: content.tag,
              'cache-control': 'private, no-cache',
              'content-security-policy': contentPolicy,
              ...headers,
            },
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
        signedIn: aboutMedia,
        ...contract(
          { params: model.mediaParams, query: model.contentQuery },
          {},
          {
            summary: 'Its bytes; needs `download` on its generation',
            tags,
            bytes: model.contentTypes,
            faults: ['media.not_found', 'media.range_not_satisfiable', 'media.unavailable'],
          },
        ),
      },
    )
