import { Elysia } from 'elysia'
import { contract, type Static } from '../schema.ts'
import type { Access } from './access.ts'
import type { Guard } from './guard.ts'
import * as schema from './schema.ts'

const tags = ['authorization']

const theThing = ({ body }: { body: unknown }) => [(body as schema.Question).resource]
const theThings = ({ body }: { body: unknown }) =>
  (body as Static<typeof schema.batch>).checks.map(({ resource }) => resource)

export const accessRoutes = ({ access, guard }: { access: Access; guard: Guard }) =>
  new Elysia({ prefix: '/api/v1/authorization' })
    .use(guard)
    .post(
      '/check',
      ({ call, caller, body }) => access.decide(caller.userId, body.action, body.resource, call.deadline),
      {
        signedIn: theThing,
        ...contract(
          { body: schema.question },
          { 200: schema.decision },
          { summary: 'May the caller do this to that?', tags },
        ),
      },
    )
    .post(
      '/check/batch',
      async ({ call, caller, body }) => ({
        results: await access.decideMany(
          body.checks.map((check) => ({ userId: caller.userId, ...check })),
          call.deadline,
        ),
      }),
      {
        signedIn: theThings,
        ...contract(
          { body: schema.batch },
          { 200: schema.decisions },
          { summary: 'Up to 200 checks in one answer', tags },
        ),
      },
    )
    .post(
      '/explain',
      ({ call, caller, body }) => access.explain(caller.userId, body.action, body.resource, call.deadline),
      {
        signedIn: true,
        ...contract(
          { body: schema.question },
          { 200: schema.explanation },
          { summary: 'The decision and what each of the ten layers said', tags },
        ),
      },
    )
