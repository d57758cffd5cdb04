import { Elysia } from 'elysia'
import type { Guard } from '../../access/guard/guard.ts'
import { contract } from '../../http/contract.ts'
import { createdAt } from '../../http/created.ts'
import { toPlace } from '../../http/schema-types.ts'
import { createLinkAdder } from '../links/routes.ts'
import { imageTypes, media, mediaPage, page } from '../model.ts'
import { formType, maxUploadBytes, refusals, type Uploads } from './service.ts'

const tags = ['media']

type Dependencies = { uploads: Uploads; guard: Guard } & Parameters<typeof createLinkAdder>[0]

/** Mounted below the API prefix. */
export const uploadRoutes = ({ uploads, guard, ...forLinks }: Dependencies) => {
  const withLinks = createLinkAdder(forLinks)
  return new Elysia()
    .use(guard)
    .post(
      '/media',
      async ({ context, caller, request, set, status }) =>
        status(
          201,
          createdAt(set, ({ id }) => `/api/v1/media/${id}`, await uploads.create(context, caller, request)),
        ),
      {
        signedIn: true,
        ...contract(
          {},
          { 201: media },
          {
            summary:
              'Upload an image, as the body or as the only file of a form; it is visible to its uploader only, and stored without its private metadata',
            tags,
            budget: 'media',
            upload: { types: [...imageTypes, formType], maxBytes: maxUploadBytes },
            errors: [
              'request.invalid',
              ...Object.values(refusals),
              'media.type_contradicted',
              'quota.stored_bytes',
              'media.too_slow',
              'media.too_many_uploads',
              'media.busy',
              'media.unavailable',
            ],
          },
        ),
      },
    )
    .get(
      '/media',
      async ({ context, caller, query, request }) =>
        withLinks(caller, request, query, await uploads.list(context, caller, toPlace(query))),
      {
        signedIn: true,
        ...contract(
          { query: page },
          { 200: mediaPage },
          { summary: 'List the uploads of the caller, newest first', tags },
        ),
      },
    )
}
