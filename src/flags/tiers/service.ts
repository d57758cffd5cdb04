import type { Changes } from '../../access/invalidation/committed-change.ts'
import type { Caller } from '../../access/principal.ts'
import { audit } from '../../audit/audit.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { Operators } from '../../identity/users/operators.ts'
import type { FlagAnswer, FlagChanges } from './model.ts'
import { createTierFlagStore, type TierFlagStore } from './store.ts'

/**
 * The flags of the cache tiers and the warm-up: on or off, for the whole deployment. The route admits operators only; `set`
 * rechecks the role of the caller and locks it until the commit.
 *
 * Guarantee: when `set` resolves, the flags are in effect on every instance. `get` reads the stored flags, not those that are in
 * effect on this instance.
 */
export const createTierFlagService = ({
  store,
  operators,
  changes,
}: {
  store: TierFlagStore
  operators: Pick<Operators, 'requireForShare'>
  changes: Changes
}) => ({
  get: (context: RequestContext): Promise<FlagAnswer> => context.deadline.run(store.list()),

  set: (context: RequestContext, caller: Caller, values: FlagChanges): Promise<FlagAnswer> =>
    changes.commitAndInvalidate(context.deadline, async (tx) => {
      await operators.requireForShare(tx, caller)
      const before = await createTierFlagStore(tx).list()
      audit.record(tx, {
        action: 'flags.changed',
        actor: caller,
        target: { type: 'flags', id: null },
        before,
        after: values,
        context,
      })
      await store.set(tx, values, caller.userId)
      return createTierFlagStore(tx).list()
    }),
})

export type TierFlagService = ReturnType<typeof createTierFlagService>
