import { Elysia } from 'elysia'
import type { Guard } from '../../access/guard/guard.ts'
import type { ResourceRef } from '../../access/policy/matrix.ts'
import type { Caller } from '../../access/principal.ts'
import { contract } from '../../http/contract.ts'
import { createdAt } from '../../http/created.ts'
import { baseUrlOf } from '../../http/request-context.ts'
import type { Static } from '../../http/schema-types.ts'
import { type Media, mediaParams, toVariants } from '../model.ts'
import * as model from './model.ts'
import type { Links } from './service.ts'

type Dependencies = { links: Links; guard: Guard; config: { readonly publicUrl: string | undefined } }

/** The media that a request for several links names. */
const mediaOfLinks = ({ body }: { body: unknown }): ResourceRef[] => {
  const ids = (body as Static<typeof model.newLinks>).links.map(({ media_id }) => media_id)
  return ids.map((id) => ({ type: 'media', id }))
}

/** Mounted below the API prefix. */
export const linkRoutes = ({ links, guard, config }: Dependencies) =>
  new Elysia()
    .use(guard)
    .post(
      '/media/links',
      async ({ context, caller, body, request }) => {
        const base = baseUrlOf(config, request)
        const items = await links.createEach(context, caller, body)
        return { items: items.map(({ target, ...item }) => ({ ...item, url: target && base + target })) }
      },
      {
        signedIn: mediaOfLinks,
        ...contract(
          { body: model.newLinks },
          { 200: model.createdLinks },
          {
            summary: 'Create up to 100 signed links at once. Each is made or refused by itself',
            tags: ['media'],
          },
        ),
      },
    )
    .post(
      '/media/:media_id/links',
      async ({ context, caller, params, body, request, set, status }) => {
        const { target, ...link } = await links.create(context, caller, params.media_id, body)
        return status(
          201,
          createdAt(set, () => target, { url: baseUrlOf(config, request) + target, ...link }),
        )
      },
      {
        signedIn: true,
        ...contract(
          { params: mediaParams, body: model.newLink },
          { 201: model.link },
          {
            summary:
              'Create a signed link to the bytes of a media item; it works without a token while this session may download them',
            tags: ['media'],
            errors: ['media.not_found'],
          },
        ),
      },
    )

type Page = { readonly items: readonly Media[]; readonly next_cursor: string | null }

/** Adds to a page the links that its query asks for. */
export const createLinkAdder =
  ({ links, config }: Pick<Dependencies, 'links' | 'config'>) =>
  (caller: Caller, request: Request, query: { links?: string }, { items, next_cursor }: Page) => ({
    items: links.addTo(items, caller, { variants: toVariants(query.links), base: baseUrlOf(config, request) }),
    next_cursor,
  })
