import { Elysia } from 'elysia'
import type { Guard } from '../access/guard.ts'
import type { ResourceRef } from '../access/policy/matrix.ts'
import type { Caller } from '../access/principal.ts'
import { Fault, invalidInput } from '../fault.ts'
import { contract } from '../http/contract.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { Responder } from '../http/responder.ts'
import { noContent, toPlace } from '../http/schema-types.ts'
import { parseRange } from '../kit/byte-range.ts'
import { matchesEntityTag } from '../kit/entity-tag.ts'
import { linkRoutes } from './links/routes.ts'
import type { Links } from './links/service.ts'
import * as model from './model.ts'
import type { MediaService } from './service.ts'
import { shareLinkRoutes } from './share-links/routes.ts'
import type { ShareLinks } from './share-links/service.ts'
import { uploadRoutes } from './uploads/routes.ts'
import type { Uploads } from './uploads/service.ts'

const tags = ['media']

/** Content up to this size is sent from memory: Bun drops the Content-Length of a stream. */
const maxWholeBytes = 1_048_576

/**
 * The policy for content opened in a browser tab. It allows the document that browsers make for an image or a video (one
 * element with an inline style) and nothing else.
 */
const contentPolicy = [
  "default-src 'none'",
  "img-src 'self'",
  "media-src 'self'",
  "style-src 'unsafe-inline'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  // No scripts, forms, plugins or windows. The origin is kept, because the page of a video fetches the video again.
  'sandbox allow-same-origin',
].join('; ')

const generationOf = ({ params }: { params: Record<string, string> }): ResourceRef => ({
  type: 'generation',
  id: params['generation_id'] ?? '',
})

type Dependencies = {
  media: MediaService
  links: Links
  shareLinks: ShareLinks
  uploads: Uploads
  guard: Guard
  responder: Pick<Responder, 'raw'>
  config: { readonly publicUrl: string | undefined }
}

type ContentRequest = {
  readonly context: RequestContext
  readonly caller: Caller | undefined
  readonly mediaId: string
  readonly query: model.ContentQuery
  readonly request: Request
}

/** Whose permission a request for content relies on: the creator of the link it carries, else the caller. */
const contentAccessOf = (
  { links, shareLinks }: Dependencies,
  { context, caller, mediaId, query, request }: ContentRequest,
) => {
  const { variant = 'original', signature, share } = query
  if (signature !== undefined) {
    if (share !== undefined) throw invalidInput('query', '/share', 'must be absent with a signature')
    if (query.variant !== undefined)
      throw invalidInput(
        'query',
        '/variant',
        'must be absent with a signature, because a signed link names its variant',
      )
    return links.open(context, { mediaId, signature, method: request.method, url: request.url })
  }
  if (share !== undefined) return shareLinks.open(context, mediaId, share, variant)
  if (caller === undefined) throw new Fault('identity.not_signed_in')
  return { userId: caller.userId, action: 'download', variant, refusal: 'media.not_found' } as const
}

export const mediaRoutes = (dependencies: Dependencies) => {
  const { media, guard, responder } = dependencies
  return new Elysia({ prefix: '/api/v1' })
    .use(guard)
    .use(linkRoutes(dependencies))
    .use(shareLinkRoutes(dependencies))
    .use(uploadRoutes(dependencies))
    .get(
      '/generations/:generation_id/media',
      ({ context, params, query }) => media.list(context, params.generation_id, toPlace(query)),
      {
        may: ['read', generationOf],
        ...contract(
          { params: model.ofGeneration, query: model.page },
          { 200: model.mediaPage },
          {
            summary: 'List the media of a generation; the list is empty until the generation is completed',
            tags,
            errors: ['generation.not_found'],
          },
        ),
      },
    )
    .get('/media/:media_id', ({ context, params }) => media.get(context, params.media_id), {
      may: ['read', model.mediaOf],
      ...contract(
        { params: model.mediaParams },
        { 200: model.media },
        {
          summary: 'Get the metadata of a media item; needs `read` on its generation, or to be its uploader',
          tags,
          errors: ['media.not_found'],
        },
      ),
    })
    .delete(
      '/media/:media_id',
      async ({ context, caller, params, status }) => {
        await media.remove(context, caller, params.media_id)
        return status(204, undefined)
      },
      {
        may: ['delete', model.mediaOf],
        ...contract(
          { params: model.mediaParams },
          { 204: noContent },
          {
            summary: 'Delete a media item and its bytes; needs `delete` on its generation, or to be its uploader',
            tags,
            errors: ['media.not_found', 'access.denied'],
          },
        ),
      },
    )
    .get(
      '/media/:media_id/content',
      async ({ context, caller, params, query, request }) => {
        const input = { context, caller, mediaId: params.media_id, query, request }
        const content = await media.getContent(context, params.media_id, await contentAccessOf(dependencies, input))
        const send = (status: number, body: BodyInit | null, headers: Record<string, string>) =>
          responder.raw(body, {
            status,
            requestId: context.requestId,
            origin: request.headers.get('origin'),
            headers: {
              etag: content.tag,
              // The bytes never change but permissions do: clients may store them and must revalidate each use.
              'cache-control': 'private, no-cache',
              'content-security-policy': contentPolicy,
              // A link may be embedded in pages of any origin.
              ...(caller === undefined && { 'cross-origin-resource-policy': 'cross-origin' }),
              ...headers,
            },
          })
        if (matchesEntityTag(request.headers.get('if-none-match'), content.tag)) return send(304, null, {})
        const condition = request.headers.get('if-range')
        const isUnchanged = condition === null || condition === content.tag
        // RFC 9110 defines ranges for GET only.
        const range = isUnchanged && request.method === 'GET' ? parseRange(request.headers.get('range')) : undefined
        const { stream, first, length, total } = await media.open(context, content, range)
        const isPart = range !== undefined
        const headers = {
          'content-type': content.contentType,
          'content-length': String(length),
          'content-disposition': `inline; filename="${content.fileName}"`,
          'accept-ranges': 'bytes',
          ...(isPart && { 'content-range': `bytes ${first}-${first + length - 1}/${total}` }),
        }
        // HEAD runs the same code; the server drops the body and keeps its Content-Length.
        const body = length > maxWholeBytes ? stream : await context.deadline.run(new Response(stream).arrayBuffer())
        return send(isPart ? 206 : 200, body, headers)
      },
      {
        signedInOrOtherCredential: { hasOtherCredential: model.hasLink, resourcesOf: model.mediaResources },
        ...contract(
          { params: model.mediaParams, query: model.contentQuery },
          {},
          {
            summary: 'Download the bytes of a media item; needs `download` on it, a signed link or a share link',
            tags,
            security: ['bearer', 'signed_link', 'share_link'],
            bytes: model.contentTypes,
            errors: ['media.not_found', 'media.link_refused', 'media.range_not_satisfiable', 'media.unavailable'],
          },
        ),
      },
    )
}
