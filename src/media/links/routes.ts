import { Elysia } from 'elysia'
import type { Guard } from '../../access/guard/guard.ts'
import { contract } from '../../http/contract.ts'
import { baseUrlOf } from '../../http/request-context.ts'
import { mediaParams } from '../model.ts'
import * as model from './model.ts'
import type { Links } from './service.ts'

type Dependencies = { links: Links; guard: Guard; config: { readonly publicUrl: string | undefined } }

/** Mounted below the API prefix. */
export const linkRoutes = ({ links, guard, config }: Dependencies) =>
  new Elysia().use(guard).post(
    '/media/:media_id/links',
    async ({ context, caller, params, body, request, status }) => {
      const base = baseUrlOf(config, request)
      const { target, ...link } = await links.create(context, caller, params.media_id, body)
      return status(201, { url: base + target, ...link })
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
