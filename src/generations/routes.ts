import { Elysia } from 'elysia'
import type { Guard } from '../access/guard/guard.ts'
import type { ResourceRef } from '../access/policy/matrix.ts'
import type { Caller } from '../access/principal.ts'
import { invalidInput } from '../fault.ts'
import { contract, toIdempotencyKey } from '../http/contract.ts'
import { createdAt } from '../http/created.ts'
import { baseUrlOf, type RequestContext } from '../http/request-context.ts'
import { noContent, type Static, toPlace } from '../http/schema-types.ts'
import { type LinkedMedia, toVariants, type Variant } from '../media/model.ts'
import * as model from './model.ts'
import type { Generations } from './service.ts'

const tags = ['generations']

const generationOf = ({ params }: { params: Record<string, string> }): ResourceRef => ({
  type: 'generation',
  id: params['generation_id'] ?? '',
})

/** The resources that an order names: its project and its parent. */
const resourcesOf = ({ body }: { body: unknown }): ResourceRef[] => {
  const { project_id, parent_id } = body as model.NewGeneration
  return [
    ...(project_id === undefined ? [] : [{ type: 'project', id: project_id } as const]),
    ...(parent_id === undefined ? [] : [{ type: 'generation', id: parent_id } as const]),
  ]
}

const toFilter = (query: Static<typeof model.generationQuery>) => ({
  ...toPlace(query),
  projectId: query.project_id,
  ownerId: query.owner_id,
  status: query.status,
  intent: query.intent,
  model: query.model,
  favorite: query.favorite === 'true',
})

/** The media of generations, by generation: with links to these variants, which begin with `base`. */
type IncludedMedia = (
  context: RequestContext,
  caller: Caller,
  generationIds: readonly string[],
  wanted: { readonly variants: readonly Variant[]; readonly base: string },
) => Promise<ReadonlyMap<string, readonly LinkedMedia[]>>

type Dependencies = {
  generations: Generations
  guard: Guard
  includedMedia: IncludedMedia
  config: { readonly publicUrl: string | undefined }
}

/** Adds the media that a query asks for to generations that the caller may read. */
const createIncluding =
  ({ includedMedia, config }: Pick<Dependencies, 'includedMedia' | 'config'>) =>
  async <G extends { readonly id: string }>(
    { context, caller, request }: { context: RequestContext; caller: Caller; request: Request },
    { include, links }: Static<typeof model.oneGenerationQuery>,
    read: () => Promise<readonly G[]>,
  ): Promise<(G & { media?: LinkedMedia[] })[]> => {
    if (include === undefined && links !== undefined)
      throw invalidInput('query', '/links', 'must come with include=media')
    const generations = await read()
    if (include === undefined) return [...generations]
    const wanted = { variants: toVariants(links), base: baseUrlOf(config, request) }
    const ids = generations.map(({ id }) => id)
    const media = await includedMedia(context, caller, ids, wanted)
    return generations.map((generation) => ({ ...generation, media: [...(media.get(generation.id) ?? [])] }))
  }

/** Routes below the prefix of the generations. */
const readRoutes = ({ generations, guard, ...forMedia }: Dependencies) => {
  const including = createIncluding(forMedia)
  return new Elysia()
    .use(guard)
    .get(
      '',
      async ({ context, caller, query, request }) => {
        let next_cursor: string | null = null
        const items = await including({ context, caller, request }, query, async () => {
          const page = await generations.list(context, caller, toFilter(query))
          next_cursor = page.next_cursor
          return page.items
        })
        return { items, next_cursor }
      },
      {
        signedIn: true,
        ...contract(
          { query: model.generationQuery },
          { 200: model.generationPage },
          { summary: 'List the generations the caller may read, newest first', tags, scope: 'generations:write' },
        ),
      },
    )
    .get(
      '/:generation_id',
      async ({ context, caller, params, query, request }) => {
        const [found] = await including({ context, caller, request }, query, async () => [
          await generations.get(context, caller, params.generation_id),
        ])
        return found as model.GenerationWithMedia
      },
      {
        may: ['read', generationOf],
        ...contract(
          { params: model.generationParams, query: model.oneGenerationQuery },
          { 200: model.generationWithMedia },
          { summary: 'Get a generation', tags, scope: 'generations:write', errors: ['generation.not_found'] },
        ),
      },
    )
    .get(
      '/:generation_id/provenance',
      async ({ context, caller, params, query, request }) => {
        let hidden = 0
        const items = await including({ context, caller, request }, query, async () => {
          const found = await generations.provenance(context, caller, params.generation_id)
          hidden = found.hidden
          return found.items
        })
        return { items, hidden }
      },
      {
        may: ['read', generationOf],
        ...contract(
          { params: model.generationParams, query: model.oneGenerationQuery },
          { 200: model.provenance },
          {
            summary: 'List the ancestors of a generation that the caller may read, and count the others',
            tags,
            scope: 'generations:write',
            errors: ['generation.not_found'],
          },
        ),
      },
    )
}

export const generationRoutes = ({ generations, guard, ...forMedia }: Dependencies) =>
  new Elysia({ prefix: '/api/v1/generations' })
    .use(guard)
    .use(readRoutes({ generations, guard, ...forMedia }))
    .post(
      '',
      async ({ context, caller, body, request, set, status }) => {
        const created = await generations.create(context, caller, body, toIdempotencyKey(request))
        if (created.replayed) set.headers['idempotent-replayed'] = 'true'
        return status(
          201,
          createdAt(set, ({ id }) => `/api/v1/generations/${id}`, created.body),
        )
      },
      {
        signedIn: resourcesOf,
        ...contract(
          { body: model.newGeneration },
          { 201: model.generation },
          {
            summary:
              'Order a generation. Needs `create` on its project, `read` on a parent and `download` on a reference; the projects of parent and reference must allow derivatives',
            tags,
            scope: 'generations:write',
            idempotent: true,
            budget: 'generation',
            errors: [
              'project.not_found',
              'access.denied',
              'generation.not_found',
              'generation.derivatives_not_allowed',
              'generation.too_deep',
              'media.not_found',
              'model.unavailable',
              'credits.insufficient',
              'quota.jobs_under_way',
              'quota.stored_bytes',
            ],
          },
        ),
      },
    )
    .patch(
      '/:generation_id',
      ({ context, caller, params, body }) => generations.update(context, caller, params.generation_id, body),
      {
        may: ['read', generationOf],
        ...contract(
          { params: model.generationParams, body: model.generationChanges },
          { 200: model.generation },
          {
            summary:
              'Change the title (needs `write`) or the project (needs `delete` on the generation and `create` on the new project)',
            tags,
            scope: 'generations:write',
            errors: ['generation.not_found', 'project.not_found', 'access.denied'],
          },
        ),
      },
    )
    .delete(
      '/:generation_id',
      async ({ context, caller, params, status }) => {
        await generations.remove(context, caller, params.generation_id)
        return status(204, undefined)
      },
      {
        may: ['delete', generationOf],
        ...contract(
          { params: model.generationParams },
          { 204: noContent },
          {
            summary: 'Delete a generation and its media; one that has not ended is cancelled and refunded first',
            tags,
            scope: 'generations:write',
            errors: ['generation.not_found', 'access.denied'],
          },
        ),
      },
    )
    .post(
      '/:generation_id/cancel',
      ({ context, caller, params }) => generations.cancel(context, caller, params.generation_id),
      {
        may: ['write', generationOf],
        ...contract(
          { params: model.generationParams },
          { 200: model.generation },
          {
            summary: 'Cancel a generation and refund its price; needs `write`',
            tags,
            scope: 'generations:write',
            changes: true,
            errors: ['generation.not_found', 'access.denied', 'generation.finished'],
          },
        ),
      },
    )
    .post(
      '/:generation_id/favorite',
      ({ context, caller, params, body }) => generations.favorite(context, caller, params.generation_id, body),
      {
        may: ['read', generationOf],
        ...contract(
          { params: model.generationParams, body: model.favorite },
          { 200: model.generation },
          {
            summary: 'Add a generation to the caller’s favorites or remove it from them',
            tags,
            scope: 'generations:write',
            errors: ['generation.not_found'],
          },
        ),
      },
    )
