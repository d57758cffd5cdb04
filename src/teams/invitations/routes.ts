import { Elysia } from 'elysia'
import type { Guard } from '../../access/guard/guard.ts'
import { contract } from '../../http/contract.ts'
import { createdAt } from '../../http/created.ts'
import { noContent, toPlace } from '../../http/schema-types.ts'
import { team, teamParams } from '../model.ts'
import * as model from './model.ts'
import type { Invitations } from './service.ts'

const tags = ['teams']

type Dependencies = { invitations: Invitations; guard: Guard; addressOf: (request: Request) => string }

/** Routes below the prefix of the teams. */
export const invitationRoutes = ({ invitations, guard, addressOf }: Dependencies) =>
  new Elysia()
    .use(guard)
    .post(
      '/:team_id/invitations',
      async ({ context, caller, params, body, set, status }) => {
        const { team_id } = params
        const invitation = await invitations.create(context, caller, team_id, body)
        return status(
          201,
          createdAt(set, ({ id }) => `/api/v1/teams/${team_id}/invitations/${id}`, invitation),
        )
      },
      {
        signedIn: true,
        ...contract(
          { params: teamParams, body: model.newInvitation },
          { 201: model.issuedInvitation },
          {
            summary: 'Invite an e-mail address to a role below the caller’s, for 7 days; replaces a pending invitation',
            tags,
            scope: 'teams:write',
            errors: ['team.not_found', 'team.second_factor_required', 'team.role_too_low', 'team.already_member'],
          },
        ),
      },
    )
    .get(
      '/:team_id/invitations',
      ({ context, caller, params, query }) =>
        invitations.list(context, caller, params.team_id, { ...toPlace(query), status: query.status ?? null }),
      {
        signedIn: true,
        ...contract(
          { params: teamParams, query: model.invitationQuery },
          { 200: model.invitationPage },
          {
            summary: 'Invitations, newest first; for admins and the owner',
            tags,
            scope: 'teams:write',
            errors: ['team.not_found', 'team.second_factor_required', 'team.role_too_low'],
          },
        ),
      },
    )
    .delete(
      '/:team_id/invitations/:invitation_id',
      async ({ context, caller, params, status }) => {
        await invitations.cancel(context, caller, params.team_id, params.invitation_id)
        return status(204, undefined)
      },
      {
        signedIn: true,
        ...contract(
          { params: model.invitationParams },
          { 204: noContent },
          {
            summary: 'Cancel a pending invitation to a role below the caller’s',
            tags,
            scope: 'teams:write',
            errors: ['team.not_found', 'team.second_factor_required', 'team.role_too_low', 'team.invitation_not_found'],
          },
        ),
      },
    )
    .post(
      '/invitations/accept',
      ({ context, caller, body, request }) => invitations.accept(context, caller, body.secret, addressOf(request)),
      {
        signedIn: true,
        ...contract(
          { body: model.invitationSecret },
          { 200: team },
          {
            summary: 'Accept an invitation to the caller’s address, and join the team',
            tags,
            scope: 'teams:write',
            errors: [
              'team.invitation_not_found',
              'team.invitation_gone',
              'team.full',
              'team.already_member',
              'quota.team_members',
            ],
          },
        ),
      },
    )
    .post(
      '/invitations/decline',
      async ({ context, caller, body, status }) => {
        await invitations.decline(context, caller, body.secret)
        return status(204, undefined)
      },
      {
        signedIn: true,
        ...contract(
          { body: model.invitationSecret },
          { 204: noContent },
          {
            summary: 'Decline an invitation to the caller’s address',
            tags,
            scope: 'teams:write',
            errors: ['team.invitation_not_found', 'team.invitation_gone'],
          },
        ),
      },
    )
