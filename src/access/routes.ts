import { Elysia } from 'elysia'
import { Fault } from '../fault.ts'
import { contract } from '../http/contract.ts'
import { type Static, toPlace } from '../http/schema-types.ts'
import { mapMaybePromise } from '../kit/maybe-promise.ts'
import { type Access, redact } from './access.ts'
import type { Guard } from './guard.ts'
import type { Listing } from './listing/listing.ts'
import * as schema from './model.ts'
import type { ResourceRef } from './policy/matrix.ts'
import type { Principal } from './principal.ts'

const tags = ['authorization']
const security = ['bearer', 'service_key'] as const
const errors = ['authorization.not_about_others', 'service_key.scope_missing'] as const

const theThing = (body: unknown) => [(body as schema.Question).resource]
const theThings = (body: unknown) => (body as Static<typeof schema.batch>).checks.map(({ resource }) => resource)
const theThingOfQuery = (query: unknown): ResourceRef[] => {
  const { type, id } = query as schema.WhoQuery
  return [{ type, id }]
}

/** Whom a question is about: a person asks about itself, a service about whom it names. */
const aboutWhom = (asker: Principal, userId: string | undefined, where: { in: 'body' | 'query'; pointer: string }) => {
  if (asker.kind === 'service') {
    if (userId !== undefined) return userId
    throw new Fault('request.invalid', { problems: [{ ...where, detail: 'A service says about whom it asks' }] })
  }
  if (userId === undefined || userId === asker.caller.userId) return asker.caller.userId
  throw new Fault('authorization.not_about_others')
}

const inBody = { in: 'body', pointer: '/user_id' } as const

export const accessRoutes = ({ access, listing, guard }: { access: Access; listing: Listing; guard: Guard }) =>
  new Elysia({ prefix: '/api/v1/authorization' })
    .use(guard)
    .post(
      '/check',
      ({ context, asker, body }) =>
        access.decide(aboutWhom(asker, body.user_id, inBody), body.action, body.resource, context.deadline),
      {
        asks: { scope: 'authorization:check', about: theThing },
        ...contract(
          { body: schema.question },
          { 200: schema.decision },
          { summary: 'May this person do this to that?', tags, security, errors },
        ),
      },
    )
    .post(
      '/check/batch',
      async ({ context, asker, body }) => ({
        results: await access.decideMany(
          body.checks.map(({ user_id, action, resource }, index) => ({
            userId: aboutWhom(asker, user_id, { in: 'body', pointer: `/checks/${index}/user_id` }),
            action,
            resource,
          })),
          context.deadline,
        ),
      }),
      {
        asks: { scope: 'authorization:check', about: theThings },
        ...contract(
          { body: schema.batch },
          { 200: schema.decisions },
          { summary: 'Up to 200 checks in one answer', tags, security, errors },
        ),
      },
    )
    .post(
      '/explain',
      ({ context, asker, body: { user_id, action, resource } }) =>
        mapMaybePromise(
          access.explain(aboutWhom(asker, user_id, inBody), action, resource, context.deadline),
          (explanation) => (asker.kind === 'person' ? redact(explanation) : explanation),
        ),
      {
        asks: { scope: 'authorization:check' },
        ...contract(
          { body: schema.question },
          { 200: schema.explanation },
          { summary: 'The decision and what each of the ten layers said', tags, security, errors },
        ),
      },
    )
    .get(
      '/accessible',
      ({ context, asker, query }) => {
        const userId = aboutWhom(asker, query.user_id, { in: 'query', pointer: '/user_id' })
        return listing.accessible(context.deadline, userId, query, toPlace(query))
      },
      {
        asks: { scope: 'authorization:list' },
        ...contract(
          { query: schema.accessibleQuery },
          { 200: schema.accessible },
          { summary: 'The things a person may do something to, newest first', tags, security, errors },
        ),
      },
    )
    .get(
      '/who',
      async ({ context, asker, query: { type, id, action, ...page } }) => {
        const ref = { type, id }
        if (asker.kind === 'person') await access.require(asker.caller, 'share', ref, context.deadline)
        return listing.who(context.deadline, ref, action, toPlace(page))
      },
      {
        asksByQuery: { scope: 'authorization:list', about: theThingOfQuery },
        ...contract(
          { query: schema.whoQuery },
          { 200: schema.who },
          {
            summary: 'The people who may do something to a thing; a person asks about what it may share',
            tags,
            security,
            errors: ['service_key.scope_missing', 'project.not_found', 'generation.not_found', 'access.denied'],
          },
        ),
      },
    )
