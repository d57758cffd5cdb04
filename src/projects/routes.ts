import { Elysia } from 'elysia'
import type { Guard } from '../access/guard.ts'
import type { ResourceRef } from '../access/policy/matrix.ts'
import { contract } from '../http/contract.ts'
import { nothing, toPlace } from '../http/schema-types.ts'
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
    .get('', ({ call, caller, query }) => projects.list(call, caller, { ...toPlace(query), ownerId: query.owner_id }), {
      signedIn: true,
      ...contract(
        { query: model.projectQuery },
        { 200: model.projectPage },
        { summary: 'Projects the caller may read, newest first', tags },
      ),
    })
    .get('/:project_id', ({ call, caller, params }) => projects.get(call, caller, params.project_id), {
      may: ['read', theProject],
      ...contract(
        { params: model.projectParams },
        { 200: model.projectWithPermissions },
        { summary: 'One project, and what the caller may do on it', tags, faults: ['project.not_found'] },
      ),
    })
    .patch('/:project_id', ({ call, caller, params, body }) => projects.update(call, caller, params.project_id, body), {
      may: ['write', theProject],
      ...contract(
        { params: model.projectParams, body: model.projectChanges },
        { 200: model.project },
        {
          summary: 'Change a project; `visibility` and `allow_derivatives` need `admin`',
          tags,
          faults: ['project.not_found', 'access.denied'],
        },
      ),
    })
    .delete(
      '/:project_id',
      async ({ call, caller, params, status }) => {
        await projects.remove(call, caller, params.project_id)
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
    .post(
      '/:project_id/transfer',
      ({ call, caller, params, body }) => projects.transfer(call, caller, params.project_id, body),
      {
        may: ['admin', theProject],
        ...contract(
          { params: model.projectParams, body: model.transfer },
          { 200: model.project },
          {
            summary: 'Hand the project over to somebody who sees it through a team; only its owner can',
            tags,
            faults: ['project.not_found', 'access.denied', 'project.new_owner_unfit'],
          },
        ),
      },
    )
    .get('/:project_id/stats', ({ call, params }) => projects.stats(call, params.project_id), {
      may: ['share', theProject],
      ...contract(
        { params: model.projectParams },
        { 200: model.stats },
        {
          summary: 'What is in the project and how many have access; needs `share`',
          tags,
          faults: ['project.not_found', 'access.denied'],
        },
      ),
    })
    .get(
      '/:project_id/teams',
      ({ call, params, query }) => projects.listGrants(call, params.project_id, toPlace(query)),
      {
        may: ['share', theProject],
        ...contract(
          { params: model.projectParams, query: model.grantQuery },
          { 200: model.grantPage },
          {
            summary: 'Teams with a grant on the project, newest team first; needs `share`',
            tags,
            faults: ['project.not_found', 'access.denied'],
          },
        ),
      },
    )
    .post(
      '/:project_id/teams',
      async ({ call, caller, params, body, status }) =>
        status(201, await projects.addGrant(call, caller, params.project_id, body)),
      {
        may: ['admin', theProject],
        ...contract(
          { params: model.projectParams, body: model.newGrant },
          { 201: model.grant },
          {
            summary: 'Let a team in; needs `admin` here, and the caller to be owner or admin of the team',
            tags,
            faults: [
              'project.not_found',
              'access.denied',
              'team.not_found',
              'team.role_too_low',
              'project.grant_exists',
            ],
          },
        ),
      },
    )
    .patch(
      '/:project_id/teams/:team_id',
      ({ call, caller, params, body }) => projects.updateGrant(call, caller, params.project_id, params.team_id, body),
      {
        may: ['admin', theProject],
        ...contract(
          { params: model.grantParams, body: model.grantChanges },
          { 200: model.grant },
          {
            summary: 'Change what a team gets out of the project',
            tags,
            faults: ['project.not_found', 'access.denied', 'project.grant_not_found'],
          },
        ),
      },
    )
    .delete(
      '/:project_id/teams/:team_id',
      async ({ call, caller, params, status }) => {
        await projects.removeGrant(call, caller, params.project_id, params.team_id)
        return status(204, undefined)
      },
      {
        may: ['admin', theProject],
        ...contract(
          { params: model.grantParams },
          { 204: nothing },
          {
            summary: 'Withdraw the grant of a team',
            tags,
            faults: ['project.not_found', 'access.denied', 'project.grant_not_found'],
          },
        ),
      },
    )
