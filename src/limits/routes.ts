import { Elysia } from 'elysia'
import type { Guard } from '../access/guard/guard.ts'
import { contract } from '../http/contract.ts'
import { noContent } from '../http/schema-types.ts'
import * as model from './model.ts'
import type { LimitOperations } from './operations.ts'

const tags = ['security']

type Dependencies = { limitOperations: LimitOperations; guard: Guard; addressOf: (request: Request) => string }

export const limitRoutes = ({ limitOperations, guard, addressOf }: Dependencies) =>
  new Elysia({ prefix: '/api/v1/security/limits' })
    .use(guard)
    .get('', () => limitOperations.list(), {
      operator: true,
      ...contract(
        {},
        { 200: model.limitedKeys },
        {
          summary: 'Who has used up a budget: of all instances, or without Redis of the one that answers',
          tags,
          errors: ['access.admins_only'],
        },
      ),
    })
    .post(
      '/lift',
      async ({ context, caller, body, request, status }) => {
        await limitOperations.lift(context, caller, body, addressOf(request))
        return status(204, undefined)
      },
      {
        recently: 'operator',
        ...contract(
          { body: model.lifting },
          { 204: noContent },
          {
            summary: 'Reset the count of a key on a budget, on every instance',
            tags,
            errors: ['limit.unavailable', 'access.admins_only', 'session.reauthentication_required'],
          },
        ),
      },
    )
