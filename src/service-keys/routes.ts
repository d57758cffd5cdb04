import { Elysia } from 'elysia'
import type { Guard } from '../access/guard/guard.ts'
import { contract } from '../http/contract.ts'
import { createdAt } from '../http/created.ts'
import { noContent, toPlace } from '../http/schema-types.ts'
import * as model from './model.ts'
import type { ServiceKeys } from './service.ts'

const tags = ['service-keys']

type Dependencies = { serviceKeys: ServiceKeys; guard: Guard; addressOf: (request: Request) => string }

export const serviceKeyRoutes = ({ serviceKeys, guard, addressOf }: Dependencies) =>
  new Elysia({ prefix: '/api/v1/service-keys' })
    .use(guard)
    .post(
      '',
      async ({ context, caller, body, request, set, status }) => {
        const key = await serviceKeys.create(context, caller, body, addressOf(request))
        return status(
          201,
          createdAt(set, ({ id }) => `/api/v1/service-keys/${id}`, key),
        )
      },
      {
        recently: 'operator',
        ...contract(
          { body: model.newServiceKey },
          { 201: model.createdServiceKey },
          {
            summary: 'Create a key for a service. The response is the only one that contains the key',
            tags,
            errors: ['access.admins_only', 'session.reauthentication_required'],
          },
        ),
      },
    )
    .get('', ({ context, query }) => serviceKeys.list(context, toPlace(query)), {
      operator: true,
      ...contract(
        { query: model.page },
        { 200: model.serviceKeyPage },
        { summary: 'List all keys, newest first, including revoked ones', tags, errors: ['access.admins_only'] },
      ),
    })
    .patch(
      '/:service_key_id',
      ({ context, caller, params, body, request }) =>
        serviceKeys.change(context, caller, { id: params.service_key_id, changes: body }, addressOf(request)),
      {
        recently: 'operator',
        ...contract(
          { params: model.serviceKeyParams, body: model.serviceKeyChanges },
          { 200: model.serviceKey },
          {
            summary:
              'Change limit, allowed networks or expiry of a key. They count from the next request on, on every instance',
            tags,
            errors: ['service_key.not_found', 'access.admins_only', 'session.reauthentication_required'],
          },
        ),
      },
    )
    .delete(
      '/:service_key_id',
      async ({ context, caller, params, request, status }) => {
        await serviceKeys.revoke(context, caller, params.service_key_id, addressOf(request))
        return status(204, undefined)
      },
      {
        recently: 'operator',
        ...contract(
          { params: model.serviceKeyParams },
          { 204: noContent },
          {
            summary: 'Revoke a key. It is refused from the next request on',
            tags,
            errors: ['service_key.not_found', 'access.admins_only', 'session.reauthentication_required'],
          },
        ),
      },
    )
