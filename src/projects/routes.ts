import { Elysia } from 'elysia'
import type { Guard } from '../access/guard/guard.ts'
import type { ResourceRef } from '../access/policy/matrix.ts'
import { contract } from '../http/contract.ts'
import { createdAt } from '../http/created.ts'
import { noContent, toPlace } from '../http/schema-types.ts'
import * as model from './model.ts'
import type { Projects } from './service.ts'

const tags = ['projects']

const theProject = ({ params }: { params: Record<string, string> }): ResourceRef => ({
  type: 'project',
  id: params['project_id'] ?? '',
})

/** Grants of teams; below the prefix of projects. */
const grantRoutes = ({ projects, guard }: { projects: Projects; guard: Guard }) =>
  new Elysia()
    .use(guard)
    .get(
      '/:project_id/teams',
      ({ context, params, query }) => projects.listGrants(context, params.project_id, toPlace(query)),
      {
        may: ['share', theProject],
        ...contract(
          { params: model.projectParams, query: model.grantQuery },
          { 200: model.grantPage },
          {
            summary: 'Grants of teams on the project, newest team first; needs `share`',
            tags,
            scope: 'projects:write',
            errors: ['project.not_found', 'access.denied'],
          },
        ),
      },
    )
    .post(
      '/:project_id/teams',
      async ({ context, caller, params, body, set, status }) => {
        const grant = await projects.addGrant(context, caller, params.project_id, body)
        return status(
          201,
          createdAt(set, () => `/api/v1/projects/${params.project_id}/teams/${body.team_id}`, grant),
        )
      },
      {
        may: ['admin', theProject],
        ...contract(
          { params: model.projectParams, body: model.newGrant },
          { 201: model.grant },
          {
            summary: 'Grant a team access; needs `admin` on the project, and the role admin or owner in the team',
            tags,
            scope: 'projects:write',
            errors: [
              'project.not_found',
              'access.denied',
              'team.not_found',
              'team.second_factor_required',
              'team.role_too_low',
              'project.grant_exists',
            ],
          },
        ),
      },
    )
    .patch(
      '/:project_id/teams/:team_id',
      ({ context, caller, params, body }) =>
        projects.updateGrant(context, caller, params.project_id, params.team_id, body),
      {
        may: ['admin', theProject],
        ...contract(
          { params: model.grantParams, body: model.grantChanges },
          { 200: model.grant },
          {
            summary: 'Change the access level of a team',
            tags,
            scope: 'projects:write',
            errors: ['project.not_found', 'access.denied', 'project.grant_not_found'],
          },
        ),
      },
    )
    .delete(
      '/:project_id/teams/:team_id',
      async ({ context, caller, params, status }) => {
        await projects.removeGrant(context, caller, params.project_id, params.team_id)
        return status(204, undefined)
      },
      {
        may: ['admin', theProject],
        ...contract(
          { params: model.grantParams },
          { 204: noContent },
          {
            summary: 'Withdraw the grant of a team',
            tags,
            scope: 'projects:write',
            errors: ['project.not_found', 'access.denied', 'project.grant_not_found'],
          },
        ),
      },
    )

type Dependencies = { projects: Projects; guard: Guard; addressOf: (request: Request) => string }

export const projectRoutes = ({ projects, guard, addressOf }: Dependencies) =>
  new Elysia({ prefix: '/api/v1/projects' })
    .use(guard)
    .use(grantRoutes({ projects, guard }))
    .post(
      '',
      async ({ context, caller, body, set, status }) =>
        status(
          201,
          createdAt(set, ({ id }) => `/api/v1/projects/${id}`, await projects.create(context, caller, body)),
        ),
      {
        signedIn: true,
        ...contract(
          { body: model.newProject },
          { 201: model.project },
          { summary: 'Create a project', tags, scope: 'projects:write', errors: ['quota.projects'] },
        ),
      },
    )
    .get(
      '',
      ({ context, caller, query }) => projects.list(context, caller, { ...toPlace(query), ownerId: query.owner_id }),
      {
        signedIn: true,
        ...contract(
          { query: model.projectQuery },
          { 200: model.projectPage },
          { summary: 'Projects the caller may read, newest first', tags, scope: 'projects:write' },
        ),
      },
    )
    .get('/:project_id', ({ context, caller, params }) => projects.get(context, caller, params.project_id), {
      may: ['read', theProject],
      ...contract(
        { params: model.projectParams },
        { 200: model.projectWithPermissions },
        {
          summary: 'One project, with the actions that the caller may do',
          tags,
          scope: 'projects:write',
          errors: ['project.not_found'],
        },
      ),
    })
    .patch(
      '/:project_id',
      ({ context, caller, params, body }) => projects.update(context, caller, params.project_id, body),
      {
        may: ['write', theProject],
        ...contract(
          { params: model.projectParams, body: model.projectChanges },
          { 200: model.project },
          {
            summary: 'Update a project; needs `write`, and `admin` for `visibility` and `allow_derivatives`',
            tags,
            scope: 'projects:write',
            errors: ['project.not_found', 'access.denied'],
          },
        ),
      },
    )
    .delete(
      '/:project_id',
      async ({ context, caller, params, status }) => {
        await projects.remove(context, caller, params.project_id)
        return status(204, undefined)
      },
      {
        may: ['delete', theProject],
        ...contract(
          { params: model.projectParams },
          { 204: noContent },
          {
            summary: 'Delete a project; its generations remain, outside of any project',
            tags,
            scope: 'projects:write',
            errors: ['project.not_found', 'access.denied'],
          },
        ),
      },
    )
    .post(
      '/:project_id/transfer',
      ({ context, caller, params, body, request }) =>
        projects.transfer(context, caller, { id: params.project_id, ...body }, addressOf(request)),
      {
        recently: ['admin', theProject],
        ...contract(
          { params: model.projectParams, body: model.transfer },
          { 200: model.project },
          {
            summary: 'Transfer a project to a user who may read it through a team; only for its owner',
            tags,
            errors: [
              'project.not_found',
              'access.denied',
              'project.new_owner_unfit',
              'project.new_owner_full',
              'session.reauthentication_required',
            ],
          },
        ),
      },
    )
    .get('/:project_id/stats', ({ context, params }) => projects.stats(context, params.project_id), {
      may: ['share', theProject],
      ...contract(
        { params: model.projectParams },
        { 200: model.stats },
        {
          summary: 'Numbers of generations, grants and people with access; needs `share`',
          tags,
          scope: 'projects:write',
          errors: ['project.not_found', 'access.denied'],
        },
      ),
    })
