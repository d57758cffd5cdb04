import type { FactCache } from '../../access/cache/fact-cache.ts'
import { factQuery } from '../../access/policy/facts/queries.ts'
import type { Fact } from '../../access/policy/facts/registry.ts'
import { Fault } from '../../fault.ts'
import type { Deadline } from '../../kit/deadline.ts'
import { type MaybePromise, mapMaybePromise } from '../../kit/maybe-promise.ts'
import type { User } from '../model.ts'

/**
 * Accounts as their owners see them, from memory.
 *
 * Guarantee: once a change of an account has been answered, every instance shows it: its triggers invalidate the fact like any
 * other. Names and addresses are in the memory of instances and in Postgres, never in Redis or a log. Never read stale.
 *
 * Cost: no statement and no promise where memory has a lease and the fact, else one statement. Degrades: without Postgres and
 * without a lease it rejects with `database.unavailable`.
 */
export const createProfiles = ({ facts }: { facts: Pick<FactCache, 'peek' | 'gather'> }) => {
  const requireActive = (profile: Fact['profile'] | undefined): User => {
    if (profile?.status !== 'active') throw new Fault('identity.not_signed_in')
    return profile
  }
  const load = async (userId: string, deadline: Deadline): Promise<Fact['profile'] | undefined> => {
    const gathered = await facts.gather([factQuery('profile', userId)], deadline)
    return gathered.find('profile', userId)
  }
  return {
    /** The profile of an active account; 401 for any other. */
    get: (userId: string, deadline: Deadline): MaybePromise<User> => {
      const known = facts.peek('profile', userId)
      if (known.kind === 'hit') return requireActive(known.value)
      return mapMaybePromise(known.kind === 'absent' ? undefined : load(userId, deadline), requireActive)
    },
  }
}

export type Profiles = ReturnType<typeof createProfiles>
