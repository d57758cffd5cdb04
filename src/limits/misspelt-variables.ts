import leven, { closestMatch } from 'leven'
import { plans } from './plans.ts'
import { openBudgetNames, planBudgetNames, quotaNames, streamCapNames, variableOf } from './policy.ts'

/** The variables without their plan, and with it. */
const stems = [
  ...[...planBudgetNames, ...openBudgetNames, ...streamCapNames].map((name) => variableOf('LIMIT', name)),
  ...quotaNames.map((name) => variableOf('QUOTA', name)),
]
const variables: readonly string[] = [
  ...[...openBudgetNames, ...streamCapNames].map((name) => variableOf('LIMIT', name)),
  ...plans.flatMap((plan) => [
    ...planBudgetNames.map((name) => variableOf('LIMIT', name, plan)),
    ...quotaNames.map((name) => variableOf('QUOTA', name, plan)),
  ]),
]

const prefix = /^(?:LIMITS?|QUOTAS?)_/
const plan = new RegExp(`_(?:${plans.join('|')})$`, 'i')
/** Kubernetes sets these in every pod for a service whose name begins with `limit-` or `quota-`. */
const ofService = /_(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)?)$/

/** Fewer typing errors are forgiven in a short name: `LIMIT_CPU` is not `LIMIT_API`. */
const maxErrors = (name: string): number => (name.replace(prefix, '').length < 6 ? 1 : 2)

const resembles = (name: string, known: readonly string[]): boolean => {
  const maxDistance = maxErrors(name)
  return known.some((each) => leven(name, each, { maxDistance: maxDistance + 1 }) <= maxDistance)
}

/** Whether the variable was meant for a figure: it resembles one, begins like one, or ends with a plan. */
const isMeant = (name: string): boolean =>
  resembles(name, variables) ||
  (prefix.test(name) &&
    (plan.test(name) ||
      resembles(name, stems) ||
      stems.some((stem) => name.startsWith(`${stem}_`) || stem.startsWith(`${name}_`))))

/** The same name of the other kind, as for `QUOTA_API_FREE`, else the nearest. */
const nearestOf = (name: string): string | undefined => {
  const tail = name.replace(prefix, '')
  return variables.find((each) => each.replace(prefix, '') === tail) ?? closestMatch(name, variables)
}

/**
 * The variables that are not figures of the policy table though they look so: `misspelt` ones, each with the nearest right name,
 * and `foreign` ones, which only begin with `LIMIT_` or `QUOTA_`. A platform may set the latter, so they have no effect.
 */
export const checkVariables = (given: readonly string[]) => {
  const known = new Set(variables)
  const unknown = given.filter((name) => !known.has(name) && !ofService.test(name))
  const upperCase = unknown.map((name) => ({ name, upper: name.toUpperCase() }))
  return {
    misspelt: upperCase.flatMap(({ name, upper }) =>
      known.has(upper) || isMeant(upper) ? [{ name, nearest: nearestOf(upper) }] : [],
    ),
    foreign: upperCase.flatMap(({ name, upper }) =>
      prefix.test(upper) && !known.has(upper) && !isMeant(upper) ? [name] : [],
    ),
  }
}
