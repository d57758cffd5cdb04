import { Elysia } from 'elysia'
import type { Guard } from '../../access/guard/guard.ts'
import { contract } from '../../http/contract.ts'
import { createdAt } from '../../http/created.ts'
import { baseUrlOf } from '../../http/request-context.ts'
import { noContent, toPlace } from '../../http/schema-types.ts'
import { mediaOf, mediaParams } from '../model.ts'
import * as model from './model.ts'
import type { ShareLinks } from './service.ts'

const tags = ['media']

type Dependencies = { shareLinks: ShareLinks; guard: Guard; config: { readonly publicUrl: string | undefined } }

/** Mounted below the API prefix. */
export const shareLinkRoutes = ({ shareLinks, guard, config }: Dependencies) =>
  new Elysia()
    .use(guard)
    .post(
      '/media/:media_id/share-links',
      async ({ context, caller, params, body, request, set, status }) => {
        const { media_id } = params
        const { target, ...link } = await shareLinks.create(context, caller, media_id, body)
        const issued = { url: baseUrlOf(config, request) + target, ...link }
        return status(
          201,
          createdAt(set, ({ id }) => `/api/v1/media/${media_id}/share-links/${id}`, issued),
        )
      },
      {
        may: ['share', mediaOf],
        ...contract(
          { params: mediaParams, body: model.newShareLink },
          { 201: model.issuedShareLink },
          {
            summary:
              'Create a share link to the bytes of a media item; it works without an account until it is removed or expires; needs `share`',
            tags,
            errors: ['media.not_found', 'access.denied', 'share_link.too_many'],
          },
        ),
      },
    )
    .get(
      '/media/:media_id/share-links',
      ({ context, params, query }) => shareLinks.list(context, params.media_id, toPlace(query)),
      {
        may: ['share', mediaOf],
        ...contract(
          { params: mediaParams, query: model.shareLinkQuery },
          { 200: model.shareLinkPage },
          {
            summary: 'List the share links of a media item that have not expired, newest first; needs `share`',
            tags,
            errors: ['media.not_found', 'access.denied'],
          },
        ),
      },
    )
    .delete(
      '/media/:media_id/share-links/:share_link_id',
      async ({ context, caller, params, status }) => {
        await shareLinks.remove(context, caller, params.media_id, params.share_link_id)
        return status(204, undefined)
      },
      {
        may: ['share', mediaOf],
        ...contract(
          { params: model.shareLinkParams },
          { 204: noContent },
          {
            summary: 'Remove a share link; it stops working at once; needs `share`',
            tags,
            errors: ['media.not_found', 'access.denied', 'share_link.not_found'],
          },
        ),
      },
    )
