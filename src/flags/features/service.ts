import { isDeepStrictEqual } from 'node:util'
import type { Changes } from '../../access/invalidation/committed-change.ts'
import { type FlagDefinition, readDefinition } from '../../access/policy/facts/feature-flags.ts'
import type { Caller } from '../../access/principal.ts'
import { recorderOf } from '../../audit/audit.ts'
import { Fault, invalidInput } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { RecordSecurityEvent } from '../../http/security-events.ts'
import type { Operators } from '../../identity/users/operators.ts'
import type { Clock } from '../../kit/clock.ts'
import { toPage } from '../../kit/cursor.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import { type Flag, type FlagInput, type FlagVersion, keptVersions, maxFlags, type RestoreInput } from './model.ts'
import type { FlagRow, FlagStore, VersionRow } from './store.ts'

const recordFlag = recorderOf('feature_flag')

type Place = { readonly after: string | null; readonly limit: number }

/** As it is answered. */
const toLists = (stored: FlagDefinition) => {
  const { users, except_users, teams, ...rest } = readDefinition(stored)
  return { ...rest, users: [...users], except_users: [...except_users], teams: [...teams] }
}

const toFlag = ({ name, version, definition, description, updated_at, updated_by }: FlagRow): Flag => ({
  name,
  version,
  ...toLists(definition),
  description,
  updated_at: updated_at.toISOString(),
  updated_by,
})

const toVersion = ({ id: _, name: __, changed_at, definition, ...row }: VersionRow): FlagVersion => ({
  ...row,
  definition: definition && toLists(definition),
  changed_at: changed_at.toISOString(),
})

const hasTwoDecimals = (percent: number): boolean => Math.round(percent * 100) / 100 === percent

const requireTwoDecimals = ({ percent = 0, plan_percents = {} }: FlagInput): void => {
  const figures = { '/percent': percent, ...Object.fromEntries(toPointers(plan_percents)) }
  for (const [pointer, figure] of Object.entries(figures)) {
    if (!hasTwoDecimals(figure)) throw invalidInput('body', pointer, 'must have at most 2 decimals')
  }
}
const toPointers = (percents: FlagDefinition['plan_percents']): [string, number][] =>
  Object.entries(percents).map(([plan, percent]) => [`/plan_percents/${plan}`, percent])

/** As it is stored: the lists in the order of their ids, so that two definitions that say the same are equal. */
const toDefinition = ({
  enabled,
  percent = 0,
  plan_percents = {},
  users = [],
  except_users = [],
  teams = [],
}: FlagInput): FlagDefinition => ({
  enabled,
  percent,
  plan_percents: { ...plan_percents },
  users: users.toSorted(),
  except_users: except_users.toSorted(),
  teams: teams.toSorted(),
})

/**
 * The version that a restore without a number goes back to: the one before the version in force, or before the one that was
 * restored last. So each further restore goes further back, and a restore that is repeated by mistake never undoes the first.
 */
const versionBefore = ([current, ...earlier]: readonly VersionRow[]): VersionRow | undefined => {
  if (current === undefined) return undefined
  const from = current.restored_from ?? current.version
  return earlier.find(({ version, definition }) => version < from && definition !== null)
}

/**
 * Feature flags as operators work on them. The route admits operators only, and their role is rechecked inside the transaction.
 *
 * Guarantee: when a change resolves, every instance evaluates by it. Every change is a new version, and the versions before stay:
 * one call restores any of the last 50.
 */
export const createFeatureFlags = ({
  store,
  operators,
  changes,
  clock,
  record,
}: {
  store: FlagStore
  operators: Pick<Operators, 'requireForShare'>
  changes: Changes
  clock: Clock
  record: RecordSecurityEvent
}) => {
  const requireKnown = async (tx: TransactionSql, { users = [], except_users = [], teams = [] }: FlagInput) => {
    const [knownUsers, knownTeams] = [
      await store.lockUsers(tx, [...users, ...except_users]),
      await store.findTeams(tx, teams),
    ]
    const lists = [
      { pointer: '/users', ids: users, known: knownUsers, what: 'an account' },
      { pointer: '/except_users', ids: except_users, known: knownUsers, what: 'an account' },
      { pointer: '/teams', ids: teams, known: knownTeams, what: 'a team' },
    ]
    for (const { pointer, ids, known, what } of lists) {
      const at = ids.findIndex((id) => !known.has(id))
      if (at >= 0) throw invalidInput('body', `${pointer}/${at}`, `must be the id of ${what} that exists`)
    }
  }

  /** Runs a change with the lock of all flags. `expected`: the version that it is to replace. */
  const change = <T>(
    context: RequestContext,
    caller: Caller,
    { name, expected }: { name: string; expected: number | undefined },
    work: (tx: TransactionSql, current: FlagRow | undefined, versions: readonly VersionRow[]) => Promise<T>,
  ): Promise<T> =>
    changes.commitAndInvalidate(context.deadline, async (tx) => {
      await operators.requireForShare(tx, caller)
      await store.lock(tx)
      const current = await store.findCurrent(tx, name)
      if (expected !== undefined && current?.version !== expected) throw new Fault('feature_flag.changed')
      return work(tx, current, await store.versionsOf(tx, name))
    })

  const putInForce = (
    tx: TransactionSql,
    caller: Caller,
    versions: readonly VersionRow[],
    next: Pick<VersionRow, 'name' | 'definition' | 'description' | 'restored_from'>,
  ) => {
    const version = (versions[0]?.version ?? 0) + 1
    const made = { ...next, version, changed_at: new Date(clock.now()), changed_by: caller.userId }
    return store.putInForce(tx, made, keptVersions)
  }

  const requireRoom = async (tx: TransactionSql): Promise<void> => {
    if ((await store.count(tx)) >= maxFlags) {
      throw new Fault('feature_flag.too_many', { extensions: { limit: maxFlags } })
    }
  }

  return {
    list: async (context: RequestContext, place: Place) => {
      const { items, next_cursor } = toPage(await store.list(context.deadline, place), place.limit)
      return { items: items.map(toFlag), next_cursor }
    },

    get: async (context: RequestContext, name: string): Promise<Flag> => {
      const row = await store.find(context.deadline, name)
      if (row === undefined) throw new Fault('feature_flag.not_found')
      return toFlag(row)
    },

    listVersions: async (context: RequestContext, name: string, place: Place) => {
      const rows = await store.listVersions(context.deadline, name, place)
      if (rows.length === 0 && place.after === null) throw new Fault('feature_flag.not_found')
      const { items, next_cursor } = toPage(rows, place.limit)
      return { items: items.map(toVersion), next_cursor }
    },

    /** Adds a flag, or replaces its definition whole. One that says the same makes no new version. */
    put: async (
      context: RequestContext,
      caller: Caller,
      name: string,
      input: FlagInput,
      address: string,
    ): Promise<{ flag: Flag; added: boolean }> => {
      requireTwoDecimals(input)
      const definition = toDefinition(input)
      const { current_version: expected, description = '' } = input
      const result = await change(context, caller, { name, expected }, async (tx, current, versions) => {
        await requireKnown(tx, input)
        const isSame = current?.description === description && isDeepStrictEqual(current.definition, definition)
        if (current !== undefined && isSame) return { row: current, added: false, changed: false }
        if (current === undefined) await requireRoom(tx)
        recordFlag(tx, context, caller, name, 'feature_flag.changed', { before: { version: current?.version } })
        const row = await putInForce(tx, caller, versions, { name, definition, description, restored_from: null })
        return { row: row as FlagRow, added: current === undefined, changed: true }
      })
      const flag = toFlag(result.row)
      if (result.changed) {
        record(context, 'feature_flag.changed', { address, by: caller.userId, flag: name, version: flag.version })
      }
      return { flag, added: result.added }
    },

    /** The feature is off for all users. The flag can be restored for 90 days. */
    remove: async (context: RequestContext, caller: Caller, name: string, address: string): Promise<void> => {
      await change(context, caller, { name, expected: undefined }, async (tx, current, versions) => {
        if (current === undefined) throw new Fault('feature_flag.not_found')
        recordFlag(tx, context, caller, name, 'feature_flag.removed', { before: { version: current.version } })
        await putInForce(tx, caller, versions, { name, definition: null, description: '', restored_from: null })
      })
      record(context, 'feature_flag.removed', { address, by: caller.userId, flag: name })
    },

    /** Makes an earlier version the one in force again, as a new version. */
    restore: async (
      context: RequestContext,
      caller: Caller,
      name: string,
      { version: wanted, current_version: expected }: RestoreInput,
      address: string,
    ): Promise<Flag> => {
      const restored = await change(context, caller, { name, expected }, async (tx, current, versions) => {
        if (versions.length === 0) throw new Fault('feature_flag.not_found')
        const found =
          wanted === undefined ? versionBefore(versions) : versions.find(({ version }) => version === wanted)
        if (found === undefined || found.definition === null) throw new Fault('feature_flag.version_not_found')
        if (current?.version === found.version) return { row: current, changed: false }
        if (current === undefined) await requireRoom(tx)
        const { definition, description, version: restored_from } = found
        recordFlag(tx, context, caller, name, 'feature_flag.restored', {
          before: { version: current?.version },
          after: { restored_from },
        })
        const row = await putInForce(tx, caller, versions, { name, definition, description, restored_from })
        return { row: row as FlagRow, changed: true }
      })
      const flag = toFlag(restored.row)
      if (restored.changed) {
        record(context, 'feature_flag.restored', { address, by: caller.userId, flag: name, version: flag.version })
      }
      return flag
    },
  }
}

export type FeatureFlags = ReturnType<typeof createFeatureFlags>
