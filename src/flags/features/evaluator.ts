import type { FactCache } from '../../access/cache/fact-cache.ts'
import { allFeatureFlags } from '../../access/policy/facts/feature-flags.ts'
import { factQuery } from '../../access/policy/facts/queries.ts'
import type { Fact } from '../../access/policy/facts/registry.ts'
import type { Caller } from '../../access/principal.ts'
import type { Deadline } from '../../kit/deadline.ts'
import type { MaybePromise } from '../../kit/maybe-promise.ts'
import { evaluateFlag, evaluateFlags } from './evaluation.ts'

type Person = Pick<Caller, 'userId' | 'plan'>
type Known = { readonly flags: Fact['feature_flags']; readonly memberships: Fact['memberships'] }

/**
 * Evaluates feature flags in this process.
 *
 * Guarantee: once a change of a flag, of a membership or of a plan has been answered, every instance evaluates by it: flags and
 * memberships are facts, which their triggers invalidate.
 *
 * Cost: no statement and no promise where memory has a lease and both facts, else one statement for both. Degrades: without
 * Postgres and without a lease it rejects with `database.unavailable`. Never evaluated by stale facts.
 */
export const createFlagEvaluator = ({ facts }: { facts: Pick<FactCache, 'readMemory' | 'gather'> }) => {
  /** Both under one reading of the lease. */
  const peek = (userId: string): Known | undefined =>
    facts.readMemory((source) => {
      const flags = source('feature_flags', allFeatureFlags)
      const memberships = source('memberships', userId)
      return flags.kind === 'hit' && memberships.kind === 'hit'
        ? { flags: flags.value, memberships: memberships.value }
        : undefined
    })

  const load = async (userId: string, deadline: Deadline): Promise<Known> => {
    const queries = [factQuery('feature_flags', allFeatureFlags), factQuery('memberships', userId)]
    const gathered = await facts.gather(queries, deadline)
    return {
      flags: gathered.find('feature_flags', allFeatureFlags) ?? { flags: [] },
      memberships: gathered.find('memberships', userId) ?? { teams: [] },
    }
  }

  const withKnown = <T>(userId: string, deadline: Deadline, use: (known: Known) => T): MaybePromise<T> => {
    const known = peek(userId)
    return known === undefined ? load(userId, deadline).then(use) : use(known)
  }

  return {
    /** Whether the feature is on for the person. Of an unknown name it is off. */
    isOn: (name: string, { userId, plan }: Person, deadline: Deadline): MaybePromise<boolean> =>
      withKnown(
        userId,
        deadline,
        ({ flags, memberships }) => evaluateFlag(flags, name, { userId, plan, teams: memberships.teams })?.on ?? false,
      ),

    /** Every feature flag, by its name. */
    evaluate: ({ userId, plan }: Person, deadline: Deadline): MaybePromise<Record<string, boolean>> =>
      withKnown(userId, deadline, ({ flags, memberships }) =>
        evaluateFlags(flags, { userId, plan, teams: memberships.teams }),
      ),
  }
}

export type FlagEvaluator = ReturnType<typeof createFlagEvaluator>
