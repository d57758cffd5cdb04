import { Elysia } from 'elysia'
import type { Guard } from '../access/guard.ts'
import type { ResourceRef } from '../access/model.ts'
import { contract, nothing, toPlace } from '../schema.ts'
import * as model from './model.ts'
import type { Projects } from './service.ts'

const tags = ['projects']

const theProject = ({ params }: { params: Record<string, string> }): ResourceRef => ({
  type: 'project',
  id: params['project_id'] ?? '',
})

export const projectRoutes = ({ projects, guard }: { projects: Projects; guard: Guard }) =>
  new Elysia({ prefix: '/api/v1/projects' })
    .use(guard)
    .post('', async ({ call, caller, body, status }) => status(201, await projects.create(call, caller, body)), {
      signedIn: true,
      ...contract({ body: model.newProject }, { 201: model.project }, { summary: 'Create a project', tags }),
    })
    .get(
      '',
      ({ call, caller, query }) => projects.list(call, caller, { ...toPlace(query), ownerId: query.owner_id ?? null }),
      {
        signedIn: true,
        ...contract(
          { query: model.projectQuery },
          { 200: model.projectPage },
          { summary: 'Projects the caller may read, newest first', tags },
        ),
      },
    )
    .get('/:project_id', ({ call, params }) => projects.get(call, params.project_id), {
      may: ['read', theProject],
      ...contract(
        { params: model.projectParams },
        { 200: model.project },
        { summary: 'One project', tags, faults: ['project.not_found'] },
      ),
    })
    .patch('/:project_id', ({ call, caller, params, body }) => projects.update(call, caller, params.project_id, body), {
      may: ['write', theProject],
      ...contract(
        { params: model.projectParams, body: model.projectChanges },
        { 200: model.project },
        {
          summary: 'Change a project; its visibility needs `admin`',
          tags,
          faults: ['project.not_found', 'access.denied'],
        },
      ),
    })
    .delete(
      '/:project_id',
      async ({ call, params, status }) => {
        await projects.remove(call, params.project_id)
        return status(204, undefined)
      },
      {
        may: ['delete', theProject],
        ...contract(
          { params: model.projectParams },
          { 204: nothing },
          {
            summary: 'Delete a project; its generations stay with their owners',
            tags,
            faults: ['project.not_found', 'access.denied'],
          },
        ),
      },
    )
