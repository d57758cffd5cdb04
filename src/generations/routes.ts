import { Elysia } from 'elysia'
import type { Guard } from '../access/guard/guard.ts'
import type { ResourceRef } from '../access/policy/matrix.ts'
import { contract, toIdempotencyKey } from '../http/contract.ts'
import { noContent, type Static, toPlace } from '../http/schema-types.ts'
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

export const generationRoutes = ({ generations, guard }: { generations: Generations; guard: Guard }) =>
  new Elysia({ prefix: '/api/v1/generations' })
    .use(guard)
    .post(
      '',
      async ({ context, caller, body, request, set, status }) => {
        const created = await generations.create(context, caller, body, toIdempotencyKey(request))
        if (created.replayed) set.headers['idempotent-replayed'] = 'true'
        return status(201, created.body)
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
    .get('', ({ context, caller, query }) => generations.list(context, caller, toFilter(query)), {
      signedIn: true,
      ...contract(
        { query: model.generationQuery },
        { 200: model.generationPage },
        { summary: 'List the generations the caller may read, newest first', tags, scope: 'generations:write' },
      ),
    })
    .get('/:generation_id', ({ context, caller, params }) => generations.get(context, caller, params.generation_id), {
      may: ['read', generationOf],
      ...contract(
        { params: model.generationParams },
        { 200: model.generation },
        { summary: 'Get a generation', tags, scope: 'generations:write', errors: ['generation.not_found'] },
      ),
    })
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
    .get(
      '/:generation_id/provenance',
      ({ context, caller, params }) => generations.provenance(context, caller, params.generation_id),
      {
        may: ['read', generationOf],
        ...contract(
          { params: model.generationParams },
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
