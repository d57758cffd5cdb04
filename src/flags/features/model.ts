import { closed, flagNamePattern, id, pageOf, pageQuery, type Static, t, timestamp } from '../../http/schema-types.ts'
import { plans } from '../../limits/plans.ts'

/** The most flags that there may be: an answer to a person has all of them. */
export const maxFlags = 100
const maxNamed = 100
/** How many versions of a flag are kept. */
export const keptVersions = 50

const name = t.String({
  pattern: flagNamePattern,
  description: '1 to 64 lower-case letters, digits and hyphens, not beginning with a hyphen',
})
const version = t.Integer({ minimum: 1, maximum: 1_000_000_000 })
const percent = t.Number({
  minimum: 0,
  maximum: 100,
  description:
    'Share of the users that no list names, with up to two decimals. Who is reached stays reached while it grows',
})
const named = (of: string, description: string) =>
  t.Array(id(of), { maxItems: maxNamed, uniqueItems: true, description })
const planPercents = t.Object(Object.fromEntries(plans.map((plan) => [plan, t.Optional(percent)])), {
  additionalProperties: false,
  description: 'Share of the users of a plan, instead of `percent`',
})
const description = t.String({ maxLength: 500 })
const enabled = t.Boolean({ description: 'False: off for all users, and the other members do not count' })
const users = named('User', 'Users for whom it is on')
const exceptUsers = named('User', 'Users for whom it is off, also where another member says on')
const teams = named('Team', 'Teams for whose members it is on')
const currentVersion = t.Optional({
  ...version,
  description: 'The version that is to be replaced. Refused with 409 where another one is in force',
})

export const flagParams = closed({ name })

export const flagInput = closed({
  enabled,
  percent: t.Optional({ ...percent, description: `${percent.description}. Default: 0` }),
  plan_percents: t.Optional(planPercents),
  users: t.Optional(users),
  except_users: t.Optional(exceptUsers),
  teams: t.Optional(teams),
  description: t.Optional(description),
  current_version: currentVersion,
})
export type FlagInput = Static<typeof flagInput>

export const restoreInput = closed({
  version: t.Optional({ ...version, description: 'Default: the one before the version in force' }),
  current_version: currentVersion,
})
export type RestoreInput = Static<typeof restoreInput>

const definition = {
  enabled,
  percent,
  plan_percents: planPercents,
  users,
  except_users: exceptUsers,
  teams,
}

export const flag = closed({
  name,
  version,
  ...definition,
  description,
  updated_at: timestamp(),
  updated_by: id('Operator'),
})
export type Flag = Static<typeof flag>
export const flagPage = pageOf(flag)

export const page = closed(pageQuery)

export const flagVersion = closed({
  version,
  definition: t.Union([closed(definition), t.Null()], { description: 'Null: this version removed the flag' }),
  description,
  restored_from: t.Union([version, t.Null()], { description: 'The version whose definition this one has again' }),
  changed_at: timestamp(),
  changed_by: id('Operator'),
})
export type FlagVersion = Static<typeof flagVersion>
export const flagVersionPage = pageOf(flagVersion)

export const evaluatedFlags = closed({
  flags: t.Object(
    {},
    {
      additionalProperties: t.Boolean(),
      description: 'Whether each feature is on for you, by the name of its flag. One that is missing is off',
    },
  ),
})
export type EvaluatedFlags = Static<typeof evaluatedFlags>
