import { Elysia } from 'elysia'
import type { Guard } from '../access/guard.ts'
import type { ResourceRef } from '../access/model.ts'
import { contract, nothing, toPlace } from '../schema.ts'
import * as model from './model.ts'
import type { Generations } from './service.ts'

const tags = ['generations']

const theGeneration = ({ params }: { params: Record<string, string> }): ResourceRef => ({
  type: 'generation',
  id: params['generation_id'] ?? '',
})

export const generationRoutes = ({ generations, guard }: { generations: Generations; guard: Guard }) =>
  new Elysia({ prefix: '/api/v1/generations' })
    .use(guard)
    .post('', async ({ call, caller, body, status }) => status(201, await generations.create(call, caller, body)), {
      signedIn: true,
      ...contract(
        { body: model.newGeneration },
        { 201: model.generation },
        {
          summary: 'Ask for a generation; in a project it needs `create` there',
          tags,
          faults: ['project.not_found', 'access.denied'],
        },
      ),
    })
    .get(
      '',
      ({ call, caller, query }) =>
        generations.list(call, caller, { ...toPlace(query), projectId: query.project_id ?? null }),
      {
        signedIn: true,
        ...contract(
          { query: model.generationQuery },
          { 200: model.generationPage },
          { summary: 'Generations the caller may read, newest first', tags },
        ),
      },
    )
    .get('/:generation_id', ({ call, params }) => generations.get(call, params.generation_id), {
      may: ['read', theGeneration],
      ...contract(
        { params: model.generationParams },
        { 200: model.generation },
        { summary: 'One generation', tags, faults: ['generation.not_found'] },
      ),
    })
    .delete(
      '/:generation_id',
      async ({ call, params, status }) => {
        await generations.remove(call, params.generation_id)
        return status(204, undefined)
      },
      {
        may: ['delete', theGeneration],
        ...contract(
          { params: model.generationParams },
          { 204: nothing },
          { summary: 'Delete a generation', tags, faults: ['generation.not_found', 'access.denied'] },
        ),
      },
    )
