import { Elysia } from 'elysia'
import type { Guard } from '../access/guard/guard.ts'
import { contract } from '../http/contract.ts'
import { createdAt } from '../http/created.ts'
import { toPlace } from '../http/schema-types.ts'
import * as model from './model.ts'
import type { Incidents } from './service.ts'

const tags = ['security']

type Dependencies = { incidents: Incidents; guard: Guard; addressOf: (request: Request) => string }

export const incidentRoutes = ({ incidents, guard, addressOf }: Dependencies) =>
  new Elysia({ prefix: '/api/v1/security/incidents' })
    .use(guard)
    .get('', ({ context, query }) => incidents.list(context, toPlace(query), query), {
      operator: true,
      ...contract(
        { query: model.incidentQuery },
        { 200: model.incidentPage },
        { summary: 'List incidents, those opened last first', tags, errors: ['access.admins_only'] },
      ),
    })
    .post(
      '',
      async ({ context, caller, body, request, set, status }) => {
        const { incident, opened } = await incidents.report(context, caller, body, addressOf(request))
        if (!opened) return incident
        return status(
          201,
          createdAt(set, ({ id }) => `/api/v1/security/incidents/${id}`, incident),
        )
      },
      {
        recently: 'operator',
        ...contract(
          { body: model.newIncident },
          { 200: model.incident, 201: model.incident },
          {
            summary:
              'Open an incident by hand. 200: one about this subject is open already, and counts one more report',
            tags,
            errors: ['access.admins_only', 'session.reauthentication_required'],
          },
        ),
      },
    )
    .get('/:incident_id', ({ context, params }) => incidents.get(context, params.incident_id), {
      operator: true,
      ...contract(
        { params: model.incidentParams },
        { 200: model.incident },
        { summary: 'Read an incident with its evidence', tags, errors: ['incident.not_found', 'access.admins_only'] },
      ),
    })
    .patch(
      '/:incident_id',
      ({ context, caller, params, body, request }) =>
        incidents.update(context, caller, params.incident_id, body, addressOf(request)),
      {
        recently: 'operator',
        ...contract(
          { params: model.incidentParams, body: model.incidentChanges },
          { 200: model.incident },
          {
            summary: 'Assign an incident to an operator, change its severity or note, or close it',
            tags,
            errors: [
              'incident.not_found',
              'incident.closed',
              'incident.assignee_unfit',
              'access.admins_only',
              'session.reauthentication_required',
            ],
          },
        ),
      },
    )
