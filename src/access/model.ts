import { closed, id, oneOf, pageOf, pageQuery, type Static, t } from '../http/schema-types.ts'
import { isId } from '../kit/id.ts'
import { tiers } from './cache/tiered-loader.ts'
import { layerPlaces, staleReads } from './policy/decide.ts'
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

const maxChecks = 200
export const batch = closed({ checks: t.Array(question, { minItems: 1, maxItems: maxChecks }) })

/** Names as members of an object: finding one costs a third of finding it in a Set. */
const membersOf = (names: readonly string[]): object => Object.fromEntries(names.map((name) => [name, true]))
const actionNames = membersOf(actions)
const typeNames = membersOf(resourceTypes)
const isOneOf = (names: object, value: unknown): boolean => typeof value === 'string' && Object.hasOwn(names, value)

/** Whether a value is an object with this number of members. */
const hasMembers = (value: unknown, expected: number): value is Record<string, unknown> => {
  if (typeof value !== 'object' || value === null) return false
  let members = 0
  for (const _ in value) members += 1
  return members === expected
}

const isQuestion = (value: unknown): boolean => {
  const { user_id, action, resource } = (value ?? {}) as Record<string, unknown>
  return (
    hasMembers(value, user_id === undefined ? 2 : 3) &&
    isOneOf(actionNames, action) &&
    hasMembers(resource, 2) &&
    isOneOf(typeNames, resource['type']) &&
    isId(resource['id']) &&
    (user_id === undefined || isId(user_id))
  )
}

/** Whether a parsed JSON value matches `batch`: a third of the cost of the schema, which allocates for each check. */
export const isBatch = (value: unknown): boolean => {
  if (!hasMembers(value, 1)) return false
  const { checks } = value
  if (!Array.isArray(checks) || checks.length === 0 || checks.length > maxChecks) return false
  for (const check of checks) if (!isQuestion(check)) return false
  return true
}

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
      placed: {
        ...oneOf(layerPlaces),
        description:
          'Why it is evaluated here, and not where its number says. `needs_no_resource`: its denial says nothing about the resource, so it is the first reason to be given. `loads_facts`: it loads what the layers after it read. `by_number`: it reads facts about the resource, as its neighbours do, and these follow their numbers. `after_decision`: it records the decision that the others have made',
      },
      verdict: oneOf(['allow', 'deny', 'abstain', 'skipped'] as const),
      reason: t.String(),
      tier: t.Union([oneOf(tiers), t.Null()], {
        description: 'The slowest tier that supplied facts. Null on all layers but 7',
      }),
      age_ms: t.Union([t.Integer({ minimum: 0 }), t.Null()], {
        description: 'The age of the oldest fact used, in milliseconds. Null on all layers but 7',
      }),
      microseconds: t.Number({
        minimum: 0,
        description:
          'On layer 7 the time of loading the facts. The other layers are timed together, and each has an equal share',
      }),
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
