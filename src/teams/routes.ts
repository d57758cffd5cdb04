import { Elysia } from 'elysia'
import type { Guard } from '../access/guard/guard.ts'
import { contract } from '../http/contract.ts'
import { createdAt } from '../http/created.ts'
import { noContent, toPlace } from '../http/schema-types.ts'
import { invitationRoutes } from './invitations/routes.ts'
import type { Invitations } from './invitations/service.ts'
import * as model from './model.ts'
import type { Teams } from './service.ts'

const tags = ['teams']

type Dependencies = {
  teams: Teams
  invitations: Invitations
  guard: Guard
  addressOf: (request: Request) => string
}

/** Members, leaving and the transfer of ownership; below the prefix of teams. */
const memberRoutes = ({ teams, guard, addressOf }: Omit<Dependencies, 'invitations'>) =>
  new Elysia()
    .use(guard)
    .get(
      '/:team_id/members',
      ({ context, caller, params, query }) => teams.listMembers(context, caller, params.team_id, toPlace(query)),
      {
        signedIn: true,
        ...contract(
          { params: model.teamParams, query: model.page },
          { 200: model.memberPage },
          {
            summary: 'Members, in descending order of user id',
            tags,
            scope: 'teams:write',
            errors: ['team.not_found', 'team.second_factor_required'],
          },
        ),
      },
    )
    .patch(
      '/:team_id/members/:user_id',
      ({ context, caller, params, body, request }) => {
        const change = { id: params.team_id, userId: params.user_id, role: body.role }
        return teams.changeMember(context, caller, change, addressOf(request))
      },
      {
        signedIn: true,
        ...contract(
          { params: model.memberParams, body: model.memberChange },
          { 200: model.member },
          {
            summary: 'Change the role of a member; the old and the new role must be below the caller’s',
            tags,
            scope: 'teams:write',
            errors: ['team.not_found', 'team.second_factor_required', 'team.role_too_low', 'team.member_not_found'],
          },
        ),
      },
    )
    .delete(
      '/:team_id/members/:user_id',
      async ({ context, caller, params, request, status }) => {
        const member = { id: params.team_id, userId: params.user_id }
        await teams.removeMember(context, caller, member, addressOf(request))
        return status(204, undefined)
      },
      {
        signedIn: true,
        ...contract(
          { params: model.memberParams },
          { 204: noContent },
          {
            summary: 'Remove a member whose role is below the caller’s',
            tags,
            scope: 'teams:write',
            errors: ['team.not_found', 'team.second_factor_required', 'team.role_too_low', 'team.member_not_found'],
          },
        ),
      },
    )
    .post(
      '/:team_id/leave',
      async ({ context, caller, params, request, status }) => {
        await teams.leave(context, caller, params.team_id, addressOf(request))
        return status(204, undefined)
      },
      {
        signedIn: true,
        ...contract(
          { params: model.teamParams },
          { 204: noContent },
          {
            summary: 'Leave a team',
            tags,
            scope: 'teams:write',
            errors: ['team.not_found', 'team.owner_cannot_leave'],
          },
        ),
      },
    )
    .post(
      '/:team_id/transfer',
      ({ context, caller, params, body, request }) =>
        teams.transfer(context, caller, { id: params.team_id, userId: body.user_id }, addressOf(request)),
      {
        recently: 'person',
        ...contract(
          { params: model.teamParams, body: model.transfer },
          { 200: model.team },
          {
            summary: 'Transfer a team to one of its members; the previous owner becomes an admin',
            tags,
            errors: [
              'team.not_found',
              'team.second_factor_required',
              'team.role_too_low',
              'team.member_not_found',
              'team.new_owner_inactive',
              'team.new_owner_full',
              'session.reauthentication_required',
            ],
          },
        ),
      },
    )

export const teamRoutes = ({ teams, invitations, guard, addressOf }: Dependencies) =>
  new Elysia({ prefix: '/api/v1/teams' })
    .use(guard)
    .use(invitationRoutes({ invitations, guard, addressOf }))
    .use(memberRoutes({ teams, guard, addressOf }))
    .post(
      '',
      async ({ context, caller, body, set, status }) =>
        status(
          201,
          createdAt(set, ({ id }) => `/api/v1/teams/${id}`, await teams.create(context, caller, body)),
        ),
      {
        signedIn: true,
        ...contract(
          { body: model.newTeam },
          { 201: model.team },
          {
            summary: 'Create a team; the caller becomes its owner',
            tags,
            scope: 'teams:write',
            errors: ['quota.teams'],
          },
        ),
      },
    )
    .get('', ({ context, caller, query }) => teams.list(context, caller, toPlace(query)), {
      signedIn: true,
      ...contract(
        { query: model.page },
        { 200: model.teamPage },
        { summary: 'Teams that the caller is a member of, newest first', tags, scope: 'teams:write' },
      ),
    })
    .get('/:team_id', ({ context, caller, params }) => teams.get(context, caller, params.team_id), {
      signedIn: true,
      ...contract(
        { params: model.teamParams },
        { 200: model.team },
        { summary: 'One team, with the role of the caller', tags, scope: 'teams:write', errors: ['team.not_found'] },
      ),
    })
    .patch(
      '/:team_id',
      ({ context, caller, params, body, request }) =>
        teams.update(context, caller, params.team_id, body, addressOf(request)),
      {
        signedIn: true,
        ...contract(
          { params: model.teamParams, body: model.teamChanges },
          { 200: model.team },
          {
            summary: 'Update a team; for admins and the owner',
            tags,
            scope: 'teams:write',
            errors: [
              'team.not_found',
              'team.role_too_low',
              'team.max_members_too_low',
              'team.second_factor_required',
              'session.reauthentication_required',
            ],
          },
        ),
      },
    )
    .delete(
      '/:team_id',
      async ({ context, caller, params, request, status }) => {
        await teams.remove(context, caller, params.team_id, addressOf(request))
        return status(204, undefined)
      },
      {
        signedIn: true,
        ...contract(
          { params: model.teamParams },
          { 204: noContent },
          {
            summary: 'Delete a team and its grants on projects; for the owner',
            tags,
            scope: 'teams:write',
            errors: ['team.not_found', 'team.second_factor_required', 'team.role_too_low'],
          },
        ),
      },
    )
    .get('/:team_id/statistics', ({ context, caller, params }) => teams.statistics(context, caller, params.team_id), {
      signedIn: true,
      ...contract(
        { params: model.teamParams },
        { 200: model.statistics },
        {
          summary: 'Numbers of members, projects, generations and pending invitations of a team',
          tags,
          scope: 'teams:write',
          errors: ['team.not_found', 'team.second_factor_required'],
        },
      ),
    })
