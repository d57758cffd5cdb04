import { closed, id, oneOf, pageOf, pageQuery, type Static, t } from '../http/schema-types.ts'
import { tiers } from './cache/tiered-loader.ts'
import { staleReads } from './policy/decide.ts'
import { actions, listedTypes, resourceTypes } from './policy/matrix.ts'

const aboutUser = t.Optional(
  id('The user the question is about. Required for a service; a person may omit it and may name only itself'),
)

export const question = closed({
  user_id: aboutUser,
  action: oneOf(actions),
  resource: closed({ type: oneOf(resourceTypes), id: id('The resource') }),
})
export type Question = Static<typeof question>

export const batch = closed({ checks: t.Array(question, { minItems: 1, maxItems: 200 }) })

export const degraded = t.Optional(
  t.Literal(staleReads, {
    description:
      'Present only while Postgres is down for every instance: the decision was made from memory. The header Velro-Degraded says the same',
  }),
)

export const decision = closed({ allowed: t.Boolean(), reason: t.String(), degraded })
export const decisions = closed({
  results: t.Array(decision, { description: 'One decision for each check, in the order of the request' }),
})

export const explanation = closed({
  allowed: t.Boolean(),
  reason: t.String(),
  degraded,
  layers: t.Array(
    closed({
      layer: t.Integer({ minimum: 1, maximum: 10 }),
      name: t.String(),
      verdict: oneOf(['allow', 'deny', 'abstain', 'skipped'] as const),
      reason: t.String(),
      tier: t.Union([oneOf(tiers), t.Null()], {
        description: 'The slowest tier that supplied facts. Null on all layers but 7',
      }),
      age_ms: t.Union([t.Integer({ minimum: 0 }), t.Null()], {
        description: 'The age of the oldest fact used, in milliseconds. Null on all layers but 7',
      }),
      microseconds: t.Number({ minimum: 0 }),
    }),
    { description: 'All ten layers, in the order of evaluation' },
  ),
})

export const accessibleQuery = closed({
  type: oneOf(listedTypes),
  action: oneOf(actions),
  user_id: aboutUser,
  ...pageQuery,
})
export type AccessibleQuery = Static<typeof accessibleQuery>

export const whoQuery = closed({
  type: oneOf(listedTypes),
  id: id('The resource'),
  action: oneOf(actions),
  ...pageQuery,
})
export type WhoQuery = Static<typeof whoQuery>

/** An id in a page, which comes from the database as it is: its form is not matched again. */
const listedId = (description: string) => t.String({ format: 'uuid', description })

export const accessible = pageOf(closed({ type: oneOf(listedTypes), id: listedId('The resource') }))

export const who = closed({
  items: t.Array(closed({ user_id: listedId('User') }), {
    description: 'Users with an active account who may do it as owner or through a team',
  }),
  everyone: t.Boolean({ description: 'Whether every signed-in user may do it, because the project is public' }),
  next_cursor: t.Union([t.String(), t.Null()]),
})
