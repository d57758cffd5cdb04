import type { Changes } from '../access/invalidation/committed-change.ts'
import { noteInvalidation } from '../access/invalidation/event-store.ts'
import type { InvalidationKeys } from '../access/invalidation/model.ts'
import type { OwnMode } from '../access/policy/restrictions.ts'
import type { Caller } from '../access/principal.ts'
import { audit } from '../audit/audit.ts'
import { Fault } from '../fault.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { RecordSecurityEvent } from '../http/security-events.ts'
import type { Operators } from '../identity/users/operators.ts'
import {
  type BreakerMode,
  type BreakerPolicy,
  type Breakers,
  breakerModes,
  type Dependency,
  defaultPolicies,
  dependencies,
} from '../platform/breaker.ts'
import type { BreakersAnswer, PolicyAnswer, PolicyChange } from './model.ts'
import type { BreakerStore } from './store.ts'

/** How often the stored policies are read, besides the bus. */
export const policyPollMs = 30_000

const prefix = 'breaker:'

/** The key of an invalidation event that carries a policy, as those of flags carry their value. */
const encode = (dependency: Dependency, { mode, failures, probeAfterMs }: BreakerPolicy): string =>
  `${prefix}${dependency}=${mode},${failures},${probeAfterMs}`

/** Undefined for another key, and for a policy of another version. */
const decode = (key: string): readonly [Dependency, BreakerPolicy] | undefined => {
  const [, name, modeName, failures, probeAfterMs] = /^breaker:(\w+)=(\w+),(\d{1,4}),(\d{1,6})$/.exec(key) ?? []
  const dependency = dependencies.find((each) => each === name)
  const mode: BreakerMode | undefined = breakerModes.find((each) => each === modeName)
  if (dependency === undefined || mode === undefined) return undefined
  return [dependency, { mode, failures: Number(failures), probeAfterMs: Number(probeAfterMs) }]
}

const toPolicy = (dependency: Dependency, { mode, failures, probeAfterMs }: BreakerPolicy): PolicyAnswer => ({
  dependency,
  mode,
  failures,
  probe_after_ms: probeAfterMs,
})

/**
 * The breakers of this instance, and the policies that operators set for those of all instances.
 *
 * Guarantee: when `set` resolves, the policy is in effect on every instance. `list` reads memory alone, so it works while Postgres
 * is down.
 */
export const createBreakerService = ({
  breakers,
  ownMode,
  store,
  instance,
  operators,
  changes,
  record,
}: {
  breakers: Breakers
  ownMode: OwnMode
  store: BreakerStore
  instance: string
  operators: Pick<Operators, 'requireForShare'>
  changes: Changes
  record: RecordSecurityEvent
}) => {
  let received = 0
  /** A policy received during the read is newer than its result. */
  const reload = async (): Promise<void> => {
    for (let before = -1; before !== received; ) {
      before = received
      const stored = await store.list()
      if (before === received) breakers.setPolicies(stored)
    }
  }
  return {
    reload,

    /** Applies the keys that are policies. */
    onInvalidated: (keys: InvalidationKeys): void => {
      if (keys === 'everything') {
        void reload().catch(() => {})
        return
      }
      for (const key of keys as readonly string[]) {
        if (!key.startsWith(prefix)) continue
        received += 1
        const found = decode(key)
        if (found !== undefined) breakers.setPolicy(...found)
      }
    },

    list: (): BreakersAnswer => ({
      instance,
      instance_mode: ownMode.current === 'normal' ? null : ownMode.current,
      breakers: breakers.list().map(({ name, dependency, state, changedAtMs, reason, counts }) => ({
        name,
        dependency,
        state,
        changed_at: changedAtMs === undefined ? null : new Date(changedAtMs).toISOString(),
        reason: reason ?? null,
        ...counts,
      })),
      policies: dependencies.map((dependency) => toPolicy(dependency, breakers.policy(dependency))),
    }),

    set: async (
      context: RequestContext,
      caller: Caller,
      dependency: Dependency,
      change: PolicyChange,
      address: string,
    ): Promise<PolicyAnswer> => {
      if (dependency === 'postgres' && change.mode === 'open') throw new Fault('breaker.cannot_be_held_open')
      const policy = await changes.commitAndInvalidate(context.deadline, async (tx) => {
        await operators.requireForShare(tx, caller)
        const before = (await store.lock(tx, dependency)) ?? defaultPolicies[dependency]
        const { mode = before.mode, failures = before.failures, probe_after_ms = before.probeAfterMs } = change
        const after = { mode, failures, probeAfterMs: probe_after_ms }
        audit.record(tx, {
          action: 'breaker.policy_changed',
          actor: caller,
          target: { type: 'breaker', id: dependency },
          before,
          after,
          context,
        })
        await store.set(tx, dependency, after)
        await noteInvalidation(tx, encode(dependency, after))
        return after
      })
      record(context, 'breaker.policy_changed', {
        address,
        by: caller.userId,
        dependency,
        mode: policy.mode,
        failures: policy.failures,
        probe_after_ms: policy.probeAfterMs,
      })
      return toPolicy(dependency, policy)
    },
  }
}

export type BreakerService = ReturnType<typeof createBreakerService>
