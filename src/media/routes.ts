import { Elysia } from 'elysia'
import type { Access } from '../access/access.ts'
import type { Guard } from '../access/guard/guard.ts'
import type { ResourceRef } from '../access/policy/matrix.ts'
import type { Caller } from '../access/principal.ts'
import { Fault, invalidInput } from '../fault.ts'
import { contract } from '../http/contract.ts'
import { headResponse } from '../http/elysia-adapter.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { Responder } from '../http/responder.ts'
import { noContent, toPlace } from '../http/schema-types.ts'
import { parseRange } from '../kit/byte-range.ts'
import { matchesEntityTag, matchesStrongly } from '../kit/entity-tag.ts'
import type { Limits } from '../limits/limits.ts'
import { closeObject } from '../platform/objects.ts'
import { createLinkAdder, linkRoutes } from './links/routes.ts'
import type { Links } from './links/service.ts'
import * as model from './model.ts'
import type { MediaService } from './service.ts'
import { shareLinkRoutes } from './share-links/routes.ts'
import type { ShareLinks } from './share-links/service.ts'
import { uploadRoutes } from './uploads/routes.ts'
import type { Uploads } from './uploads/service.ts'

const tags = ['media']

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
  access: Pick<Access, 'limitsOf'>
  limits: Pick<Limits, 'person'>
  config: { readonly publicUrl: string | undefined }
}

type ContentRequest = {
  readonly context: RequestContext
  readonly caller: Caller | undefined
  readonly mediaId: string
  readonly query: model.ContentQuery
  readonly request: Request
}

/**
 * Refuses a parameter that is given twice, because two readers may take another one, and one that this route does not have.
 * Others add parameters to links that people share (`fbclid`, `utm_source`), so with a link those are ignored.
 */
const refuseParameters = ({ query, request }: ContentRequest): void => {
  const unknown = Object.keys(query).filter((name) => !Object.hasOwn(model.contentQuery.properties, name))
  if (!model.hasLink(query) && unknown.length > 0) {
    throw new Fault('request.invalid', {
      problems: unknown.slice(0, 20).map((name) => ({
        in: 'query',
        pointer: `/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`,
        detail: 'is not a field of this request',
      })),
    })
  }
  const given = URL.parse(request.url)?.searchParams
  for (const name of Object.keys(model.contentQuery.properties)) {
    if ((given?.getAll(name).length ?? 0) > 1) throw invalidInput('query', `/${name}`, 'must be given once')
  }
}

/** Whose permission a request for content relies on: the creator of the link it carries, else the caller. */
const contentAccessOf = ({ links, shareLinks }: Dependencies, input: ContentRequest) => {
  const { context, caller, mediaId, query, request } = input
  refuseParameters(input)
  const { variant = 'original', signature, share } = query
  if (signature !== undefined) {
    if (share !== undefined) throw invalidInput('query', '/share', 'must be absent with a signature')
    if (query.variant !== undefined)
      throw invalidInput(
        'query',
        '/variant',
        'must be absent with a signature, because a signed link names its variant',
      )
    return links.open(context, { mediaId, signature, method: request.method })
  }
  if (share !== undefined) return shareLinks.open(context, mediaId, share, variant)
  if (caller === undefined) throw new Fault('identity.not_signed_in')
  return { userId: caller.userId, action: 'download', variant, refusal: 'media.not_found' } as const
}

/** Made for each application, because Elysia puts the guard of the first one into the object that it is given. */
const contentHooks = () => ({
  signedInOrOtherCredential: { hasOtherCredential: model.hasLink, resourcesOf: model.mediaResources },
  ...contract(
    { params: model.mediaParams, query: model.contentQuery },
    {},
    {
      summary: 'Download the bytes of a media item; needs `download` on it, a signed link or a share link',
      tags,
      scope: 'generations:write',
      security: ['bearer', 'cookie', 'signed_link', 'share_link'],
      bytes: model.contentTypes,
      budget: 'media',
      errors: [
        'media.not_found',
        'media.link_refused',
        'media.range_not_satisfiable',
        'media.unavailable',
        'request.precondition_failed',
      ],
    },
  ),
})

/** The content as RFC 9110 has it: conditions, ranges, and for HEAD the headers alone. */
const createContentSender =
  (dependencies: Dependencies) =>
  async (input: ContentRequest): Promise<Response> => {
    const { media, responder, access, limits } = dependencies
    const { context, caller, mediaId, request } = input
    const contentAccess = await contentAccessOf(dependencies, input)
    const content = await media.getContent(context, mediaId, contentAccess)
    // By link: counted for the person who made it, whose facts the decision has loaded.
    const maker = caller === undefined ? await access.limitsOf(contentAccess.userId, context.deadline) : undefined
    if (maker !== undefined) await limits.person(context, maker, 'media', 1)
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
    const mustMatch = request.headers.get('if-match')
    if (mustMatch !== null && !matchesStrongly(mustMatch, content.tag)) {
      throw new Fault('request.precondition_failed', { headers: { etag: content.tag } })
    }
    if (matchesEntityTag(request.headers.get('if-none-match'), content.tag)) return send(304, null, {})
    const condition = request.headers.get('if-range')
    const isUnchanged = condition === null || condition === content.tag
    // RFC 9110 defines ranges for GET only.
    const range = isUnchanged && request.method === 'GET' ? parseRange(request.headers.get('range')) : undefined
    const opened = await media.open(context, content, range)
    const { first, length, total } = opened
    const isPart = range !== undefined
    const headers = {
      'content-type': content.contentType,
      'content-length': String(length),
      'content-disposition': `inline; filename="${content.fileName}"`,
      'accept-ranges': 'bytes',
      ...(isPart && { 'content-range': `bytes ${first}-${first + length - 1}/${total}` }),
    }
    if (request.method === 'HEAD') {
      closeObject(opened)
      return headResponse(send(200, null, headers), length)
    }
    const body = await media.toBody(context, content, opened)
    // Bun answers a Range header by itself where it sends a whole file, unless the response has a Content-Range.
    const ignoresRange = !isPart && body instanceof Blob && request.headers.has('range')
    return send(isPart ? 206 : 200, body, ignoresRange ? { ...headers, 'content-range': '' } : headers)
  }

export const mediaRoutes = (dependencies: Dependencies) => {
  const { media, guard } = dependencies
  const sendContent = createContentSender(dependencies)
  const withLinks = createLinkAdder(dependencies)
  return new Elysia({ prefix: '/api/v1' })
    .use(guard)
    .use(linkRoutes(dependencies))
    .use(shareLinkRoutes(dependencies))
    .use(uploadRoutes(dependencies))
    .get(
      '/generations/:generation_id/media',
      async ({ context, caller, params, query, request }) =>
        withLinks(caller, request, query, await media.list(context, params.generation_id, toPlace(query))),
      {
        may: ['read', generationOf],
        ...contract(
          { params: model.ofGeneration, query: model.page },
          { 200: model.mediaPage },
          {
            summary: 'List the media of a generation; the list is empty until the generation is completed',
            tags,
            scope: 'generations:write',
            errors: ['generation.not_found'],
          },
        ),
      },
    )
    .get(
      '/media/:media_id',
      async ({ context, caller, params, query, request }) => {
        const found = { items: [await media.get(context, params.media_id)], next_cursor: null }
        return withLinks(caller, request, query, found).items[0] as model.LinkedMedia
      },
      {
        may: ['read', model.mediaOf],
        ...contract(
          { params: model.mediaParams, query: model.mediaQuery },
          { 200: model.linkedMedia },
          {
            summary: 'Get the metadata of a media item; needs `read` on its generation, or to be its uploader',
            tags,
            scope: 'generations:write',
            errors: ['media.not_found'],
          },
        ),
      },
    )
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
      ({ context, caller, params, query, request }) =>
        sendContent({ context, caller, mediaId: params.media_id, query, request }),
      contentHooks(),
    )
}
