import { Elysia } from 'elysia'
import type { Guard } from '../access/guard/guard.ts'
import { contract } from '../http/contract.ts'
import * as model from './model.ts'
import type { BreakerService } from './service.ts'

const tags = ['security']

type Dependencies = { breakerService: BreakerService; guard: Guard; addressOf: (request: Request) => string }

export const breakerRoutes = ({ breakerService, guard, addressOf }: Dependencies) =>
  new Elysia({ prefix: '/api/v1/security/breakers' })
    .use(guard)
    .get('', () => breakerService.list(), {
      operatorOrService: 'performance:read',
      ...contract(
        {},
        { 200: model.breakers },
        {
          summary:
            'The circuit breakers of this instance, and the policies of all; answered while Postgres is down too',
          tags,
          security: ['bearer', 'service_key'],
          errors: ['access.admins_only', 'service_key.scope_missing'],
        },
      ),
    })
    .patch(
      '/:dependency',
      ({ context, caller, params, body, request }) =>
        breakerService.set(context, caller, params.dependency, body, addressOf(request)),
      {
        recently: 'operator',
        ...contract(
          { params: model.dependencyParameter, body: model.policyChange },
          { 200: model.policy },
          {
            summary:
              'Change the policy of the breakers of a dependency; in effect on every instance when this responds',
            tags,
            errors: ['breaker.cannot_be_held_open', 'access.admins_only', 'session.reauthentication_required'],
          },
        ),
      },
    )
