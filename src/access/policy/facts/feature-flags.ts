import { Type as t } from '@sinclair/typebox'
import { type Plan, plans } from '../../../limits/plans.ts'
import { exactly, type FactDefinition, oneOf, uuid, type ValueSource } from './definition.ts'

/** For whom a feature is on. */
export type FlagDefinition = {
  /** False: off for all users, and the other members do not count. */
  readonly enabled: boolean
  /** Of the users that nothing below names: the share for whom it is on. 0 to 100, with up to two decimals. */
  readonly percent: number
  /** The share of the users of a plan, instead of `percent`. */
  readonly plan_percents: Readonly<Partial<Record<Plan, number>>>
  /** Teams for whose members it is on. */
  readonly teams: readonly string[]
  /** Users for whom it is on. */
  readonly users: readonly string[]
  /** Users for whom it is off, though one of their teams is named, or they are. */
  readonly except_users: readonly string[]
}

/** All feature flags, in one fact: an answer about a person needs them all. No decision depends on it. */
export type FeatureFlagsFact = { readonly flags: readonly (FlagDefinition & { readonly name: string })[] }

/** The id of that fact. */
export const allFeatureFlags = '00000000-0000-0000-0000-000000000000'

type Row = { readonly name: string; readonly definition: Partial<FlagDefinition> }

/** A stored definition. A member that is missing, as in one of another version, turns the feature on for no user. */
export const readDefinition = (stored: Partial<FlagDefinition>): FlagDefinition => ({
  enabled: stored.enabled === true,
  percent: stored.percent ?? 0,
  plan_percents: stored.plan_percents ?? {},
  teams: stored.teams ?? [],
  users: stored.users ?? [],
  except_users: stored.except_users ?? [],
})

const value: ValueSource<FeatureFlagsFact, readonly Row[]> = {
  select: `(select coalesce(json_agg(json_build_object('name', f.name, 'definition', f.definition) order by f.name), '[]') from feature_flags f)`,
  toFact: (rows) => ({ flags: rows.map(({ name, definition }) => ({ name, ...readDefinition(definition) })) }),
}

const percent = t.Number({ minimum: 0, maximum: 100 })

/** A flag without its lists. */
const fixedBytes = 600

export const featureFlags: FactDefinition<'feature_flags', FeatureFlagsFact> = {
  kind: 'feature_flags',
  schema: exactly({
    flags: t.Array(
      exactly({
        name: t.String(),
        enabled: t.Boolean(),
        percent,
        plan_percents: t.Partial(t.Record(oneOf(plans), percent)),
        teams: t.Array(uuid),
        users: t.Array(uuid),
        except_users: t.Array(uuid),
      }),
    ),
  }),
  table: 'feature_flags',
  columns: ['name', 'definition'],
  value,
  /** The lists name people. */
  memoryOnly: true,
  secret: true,
  extraBytes: ({ flags }) =>
    flags.reduce(
      (sum, { teams, users, except_users }) =>
        sum + fixedBytes + 160 * (teams.length + users.length + except_users.length),
      0,
    ),
}
