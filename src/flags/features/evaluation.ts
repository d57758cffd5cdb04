import type { FeatureFlagsFact } from '../../access/policy/facts/feature-flags.ts'
import { isInRollout } from '../../kit/rollout.ts'
import type { Plan } from '../../limits/plans.ts'

export type Person = { readonly userId: string; readonly plan: Plan; readonly teams: readonly string[] }

/** Why a feature is on or off for a person, in the order in which the rules are tried: the first that applies decides. */
export const flagReasons = ['disabled', 'except_user', 'user', 'team', 'plan_percent', 'percent'] as const
export type FlagReason = (typeof flagReasons)[number]

export type Evaluation = { readonly on: boolean; readonly reason: FlagReason }

type Flag = FeatureFlagsFact['flags'][number]
type Compiled = {
  readonly flag: Flag
  readonly users: ReadonlySet<string>
  readonly exceptUsers: ReadonlySet<string>
  readonly teams: ReadonlySet<string>
}

const compile = (flag: Flag): Compiled => ({
  flag,
  users: new Set(flag.users),
  exceptUsers: new Set(flag.except_users),
  teams: new Set(flag.teams),
})

/** A fact is made once and evaluated for many people. */
const compiled = new WeakMap<FeatureFlagsFact, ReadonlyMap<string, Compiled>>()
const compiledOf = (fact: FeatureFlagsFact): ReadonlyMap<string, Compiled> => {
  const known = compiled.get(fact)
  if (known !== undefined) return known
  const made = new Map(fact.flags.map((flag) => [flag.name, compile(flag)]))
  compiled.set(fact, made)
  return made
}

const evaluateOne = (
  { flag, users, exceptUsers, teams }: Compiled,
  { userId, plan, teams: own }: Person,
): Evaluation => {
  if (!flag.enabled) return { on: false, reason: 'disabled' }
  if (exceptUsers.has(userId)) return { on: false, reason: 'except_user' }
  if (users.has(userId)) return { on: true, reason: 'user' }
  if (teams.size > 0 && own.some((team) => teams.has(team))) return { on: true, reason: 'team' }
  const ofPlan = flag.plan_percents[plan]
  const percent = ofPlan ?? flag.percent
  return { on: isInRollout(flag.name, userId, percent), reason: ofPlan === undefined ? 'percent' : 'plan_percent' }
}

/** Whether a feature is on for a person. An unknown one is off; undefined says so. */
export const evaluateFlag = (fact: FeatureFlagsFact, name: string, person: Person): Evaluation | undefined => {
  const found = compiledOf(fact).get(name)
  return found && evaluateOne(found, person)
}

/** By the name of the flag, in the order of names. */
export const evaluateFlags = (fact: FeatureFlagsFact, person: Person): Record<string, boolean> =>
  Object.fromEntries(
    compiledOf(fact)
      .values()
      .map((found) => [found.flag.name, evaluateOne(found, person).on]),
  )
