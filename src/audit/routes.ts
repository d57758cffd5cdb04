import { Elysia } from 'elysia'
import type { Guard } from '../access/guard/guard.ts'
import { contract } from '../http/contract.ts'
import type { Responder } from '../http/responder.ts'
import { toPlace } from '../http/schema-types.ts'
import * as model from './model.ts'
import type { AuditService } from './service.ts'

const type = 'application/x-ndjson'

type Dependencies = { auditService: AuditService; guard: Guard; responder: Pick<Responder, 'raw'> }

export const auditRoutes = ({ auditService, guard, responder }: Dependencies) =>
  new Elysia({ prefix: '/api/v1' })
    .use(guard)
    .get('/security/audit', ({ context, caller, query }) => auditService.list(context, caller, query, toPlace(query)), {
      operator: true,
      ...contract(
        { query: model.auditQuery },
        { 200: model.auditPage },
        {
          summary:
            'List audit events, newest first. Events of the last second may still be missing, decisions of a minute',
          tags: ['security'],
          errors: ['access.admins_only'],
        },
      ),
    })
    .get('/security/audit/verify', ({ context, query }) => auditService.verify(context, query), {
      operator: true,
      ...contract(
        { query: model.verifyQuery },
        { 200: model.auditReport },
        {
          summary: 'Verify the audit log, in parts: locates every event that was altered, removed, swapped or inserted',
          tags: ['security'],
          errors: ['audit.head_foreign', 'access.admins_only'],
        },
      ),
    })
    .post(
      '/security/audit/export',
      ({ context, caller, body, request }) =>
        responder.raw(auditService.export(context, caller, body), {
          status: 200,
          requestId: context.requestId,
          origin: request.headers.get('origin'),
          headers: { 'content-type': type, 'content-disposition': 'attachment; filename="velro-audit.ndjson"' },
        }),
      {
        recently: 'operator',
        ...contract(
          { body: model.exportRange },
          {},
          {
            summary:
              'Download audit events with their links, one JSON object a line. It is streamed, and whole only if its last line has `end`',
            tags: ['security'],
            file: type,
            errors: ['access.admins_only', 'session.reauthentication_required'],
          },
        ),
      },
    )
    .get('/auth/audit', ({ context, caller, query }) => auditService.listOwn(context, caller, toPlace(query)), {
      signedIn: true,
      ...contract(
        { query: model.page },
        { 200: model.auditPage },
        { summary: 'What you did, and what was done to your account, newest first', tags: ['auth'] },
      ),
    })
    .get(
      '/teams/:team_id/audit',
      ({ context, caller, params, query }) => auditService.listOfTeam(context, caller, params.team_id, toPlace(query)),
      {
        signedIn: true,
        ...contract(
          { params: model.teamParams, query: model.page },
          { 200: model.auditPage },
          {
            summary: 'What was done in a team, newest first. For its owner',
            tags: ['teams'],
            errors: ['team.not_found', 'team.role_too_low', 'team.second_factor_required'],
          },
        ),
      },
    )
