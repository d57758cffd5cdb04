import type { Clock } from '../../kit/clock.ts'
import { lowestId } from '../../kit/cursor.ts'
import type { StartDeadline } from '../../kit/deadline.ts'
import type { Log } from '../../platform/log.ts'
import type { Changes } from '../invalidation/committed-change.ts'
import type { AccessDifference, DisabledTrigger, EffectiveAccessStore } from './effective-access-store.ts'

/** How often an instance looks for disabled triggers, and whether the check is due. */
export const accessCheckPollMs = 10_000
const minPauseMs = 30_000
const maxPauseMs = 3_600_000
/** The check takes at most a twentieth of the time of one connection. */
const pauseFactor = 20
const mendMs = 30_000
/** Projects that one transaction recomputes. */
const projectsPerMend = 100
const maxLogged = 100

/** The pause after a check: 20 times its duration, between 30 s and an hour. */
export const pauseAfter = (tookMs: number): number => Math.min(Math.max(pauseFactor * tookMs, minPauseMs), maxPauseMs)

/** Triggers that were disabled: those that are enabled again, and those that could not be. */
type Triggers = {
  readonly enabled: readonly DisabledTrigger[]
  readonly left: readonly { readonly trigger: DisabledTrigger; readonly error: unknown }[]
}

type Slice = Awaited<ReturnType<EffectiveAccessStore['findDifferencesAfter']>>
type ListSlice = Awaited<ReturnType<EffectiveAccessStore['findListDifferencesAfter']>>

type Dependencies = {
  readonly store: EffectiveAccessStore
  readonly changes: Changes
  readonly startDeadline: StartDeadline
  readonly clock: Pick<Clock, 'monotonic'>
  readonly log: Log
}

/**
 * Compares the effective-access rows and the list of generations in public projects with the base tables, and mends what
 * differs. Triggers keep the rows correct, so a
 * difference means that a table was changed without them: with `session_replication_role = replica`, with a disabled
 * trigger, or in access_rules.
 *
 * Guarantee: a difference is recomputed, logged as an error, and everything is invalidated on every instance, because the
 * same hand may have changed other facts. access_rules is restored first. Of all instances one runs the check, every 30 s
 * while it takes up to 1.5 s, else after 20 times its duration and at least once an hour. It reads every row, in slices of
 * 5,000 projects. While a trigger is disabled, changes made through the service invalidate nothing either: so every instance
 * looks for disabled triggers every 10 s, enables them, and then runs the check without waiting until it is due. Degrades: a
 * trigger that cannot be enabled, because the database role does not own the table, is logged by each check, and its changes
 * take effect with the next one.
 */
export const createAccessRepair = ({ store, changes, startDeadline, clock, log }: Dependencies) => {
  const enableTriggers = async (): Promise<Triggers> => {
    const triggers = await store.findDisabledTriggers()
    const enabled: DisabledTrigger[] = []
    const left: { trigger: DisabledTrigger; error: unknown }[] = []
    for (const trigger of triggers) {
      await store.enableTrigger(trigger).then(
        () => enabled.push(trigger),
        (error: unknown) => left.push({ trigger, error }),
      )
    }
    if (enabled.length > 0) {
      log.error(
        { event: 'access.triggers_disabled', triggers: enabled },
        'triggers were disabled by hand; they are enabled again',
      )
    }
    return { enabled, left }
  }

  const restoreRules = async (): Promise<boolean> => {
    if (!(await store.areRulesWrong())) return false
    log.error({ event: 'access.rules_differ' }, 'access_rules was changed by hand; it is restored')
    await changes.commitAndInvalidate(startDeadline(mendMs), store.restoreRules)
    return true
  }

  const mend = async (differences: readonly AccessDifference[]): Promise<void> => {
    const ids = [...new Set(differences.map(({ project_id }) => project_id))].sort()
    for (let from = 0; from < ids.length; from += projectsPerMend) {
      const part = ids.slice(from, from + projectsPerMend)
      await changes.commitAndInvalidate(startDeadline(mendMs), (tx) => store.mend(tx, part))
    }
  }

  /**
   * Compares every slice. One in which rows were mended is compared again, because it lists a part of its differences, until
   * it shows only projects that were mended already: concurrent changes, which the next check compares.
   */
  const compareAndMend = async (): Promise<{ found: number; sample: AccessDifference[] }> => {
    const sample: AccessDifference[] = []
    const mended = new Set<string>()
    let found = 0
    for (let after: string | undefined = lowestId; after !== undefined; ) {
      const slice: Slice = await store.findDifferencesAfter(after)
      const differences = slice.differences.filter(({ project_id }) => !mended.has(project_id))
      if (differences.length === 0) {
        after = slice.next
        continue
      }
      found += differences.length
      sample.push(...differences.slice(0, maxLogged - sample.length))
      await mend(differences)
      for (const { project_id } of differences) mended.add(project_id)
    }
    return { found, sample }
  }

  /** As `compareAndMend`, for the list of generations of public projects. Returns how many were mended. */
  const compareAndMendLists = async (): Promise<number> => {
    const mended = new Set<string>()
    for (let after: string | undefined = lowestId; after !== undefined; ) {
      const slice: ListSlice = await store.findListDifferencesAfter(after)
      const generations = slice.generations.filter((id) => !mended.has(id))
      if (generations.length === 0) {
        after = slice.next
        continue
      }
      await changes.commitAndInvalidate(startDeadline(mendMs), (tx) => store.mendLists(tx, generations))
      for (const id of generations) mended.add(id)
    }
    if (mended.size > 0) {
      const generations = [...mended].slice(0, maxLogged)
      log.error(
        { event: 'access.lists_differ', generations, found: mended.size },
        'the list of generations in public projects differed from the base tables; it was recomputed',
      )
    }
    return mended.size
  }

  const check = async ({ enabled, left }: Triggers): Promise<void> => {
    const startedMs = clock.monotonic()
    for (const { trigger, error } of left) {
      log.error({ event: 'access.trigger_not_enabled', trigger, error }, 'a disabled trigger could not be enabled')
    }
    const restored = await restoreRules()
    const { found, sample } = await compareAndMend()
    const unlisted = await compareAndMendLists()
    // Changes made without triggers were not invalidated, whether or not they changed effective access.
    if (found > 0 || unlisted > 0 || enabled.length > 0 || left.length > 0 || restored) {
      await changes.commitAndInvalidate(startDeadline(mendMs), store.invalidateEverything)
    }
    const tookMs = Math.round(clock.monotonic() - startedMs)
    const pauseMs = pauseAfter(tookMs)
    await store.complete(tookMs, pauseMs)
    const cost = { took_ms: tookMs, next_in_ms: pauseMs }
    if (found === 0) {
      log.debug({ event: 'access.rows_checked', ...cost }, 'effective access agrees with the base tables')
      return
    }
    log.error(
      { event: 'access.rows_differ', differences: sample, found, ...cost },
      'effective access differed from the base tables; it was recomputed and everything was invalidated',
    )
  }

  return {
    /** Runs the check now. */
    run: async (): Promise<void> => check(await enableTriggers()),
    /** Enables disabled triggers. Runs the check if it enabled one, or if it is due and no other instance has claimed it. */
    poll: async (): Promise<void> => {
      const triggers = await enableTriggers()
      if ((await store.claim()) || triggers.enabled.length > 0) await check(triggers)
    },
  }
}

/** Compares once and logs an error where rows differ; mends nothing. */
export const createEffectiveAccessCheck =
  ({ findDifferences, log }: { findDifferences: () => Promise<AccessDifference[]>; log: Log }) =>
  async (): Promise<void> => {
    const differences = await findDifferences()
    if (differences.length > 0)
      log.error({ event: 'access.rows_differ', differences }, 'effective access differs from the base tables')
  }
