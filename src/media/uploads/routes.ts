import { Elysia } from 'elysia'
import type { Guard } from '../../access/guard/guard.ts'
import { contract } from '../../http/contract.ts'
import { toPlace } from '../../http/schema-types.ts'
import { imageTypes, media, mediaPage, page } from '../model.ts'
import { maxUploadBytes, refusals, type Uploads } from './service.ts'

const tags = ['media']

/** Mounted below the API prefix. */
export const uploadRoutes = ({ uploads, guard }: { uploads: Uploads; guard: Guard }) =>
  new Elysia()
    .use(guard)
    .post(
      '/media',
      async ({ context, caller, request, status }) => status(201, await uploads.create(context, caller, request)),
      {
        signedIn: true,
        ...contract(
          {},
          { 201: media },
          {
            summary: 'Upload an image; it is visible to its uploader only, and stored without its private metadata',
            tags,
            budget: 'media',
            upload: { types: imageTypes, maxBytes: maxUploadBytes },
            errors: [
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
    .get('/media', ({ context, caller, query }) => uploads.list(context, caller, toPlace(query)), {
      signedIn: true,
      ...contract(
        { query: page },
        { 200: mediaPage },
        { summary: 'List the uploads of the caller, newest first', tags },
      ),
    })
