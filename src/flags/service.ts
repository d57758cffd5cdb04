import type { Changes } from '../access/invalidation/committed-change.ts'
import type { Caller } from '../access/principal.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { Operators } from '../identity/users/operators.ts'
import type {} from '../platform/postgres.ts'
import type { FlagAnswer, FlagChanges } from './model.ts'
import { createFlagStore, type FlagStore } from './store.ts'

/**
 * What operators switch on and off. Callers are operators of the platform: the route sees to that, and whoever sets a flag
 * is one until that is committed.
 *
 * Promise: when `set` is done every instance goes by it. What is told is what is stored, not what one instance goes by.
 */
export const createFlagService = ({
  store,
  operators,
  changes,
}: {
  store: FlagStore
  operators: Pick<Operators, 'requireForShare'>
  changes: Changes
}) => ({
  get: (context: RequestContext): Promise<FlagAnswer> => context.deadline.run(store.list()),

  set: (context: RequestContext, caller: Caller, values: FlagChanges): Promise<FlagAnswer> =>
    changes.commitAndInvalidate(context.deadline, async (tx) => {
      await operators.requireForShare(tx, caller)
      await store.set(tx, values, caller.userId)
      return createFlagStore(tx).list()
    }),
})

export type FlagService = ReturnType<typeof createFlagService>
