import type { StreamPermission } from '../../access/permission-recheck.ts'
import type { Clock } from '../../kit/clock.ts'
import { createDeadlines, type Deadline } from '../../kit/deadline.ts'
import type { Log } from '../../platform/log.ts'
import type { Generation } from '../model.ts'

const loadTimeoutMs = 2_000

/** Generations as these users see them, in the order of `queries`; undefined for those that are deleted. */
export type FindEach = (
  deadline: Deadline,
  queries: readonly { readonly id: string; readonly userId: string }[],
) => Promise<readonly (Generation | undefined)[]>

type Subscriber = { readonly generationId: string; readonly permission: StreamPermission }

/**
 * Loads the complete generation for each subscriber whose generation has ended.
 *
 * Cost: requests of one tick are coalesced into one statement, and one statement runs at a time.
 * Degrades: when a load fails, `onLoaded` is not called and the subscriber requests again at the next re-check.
 */
export const createFinalStateLoader = <S extends Subscriber>({
  findEach,
  onLoaded,
  clock,
  log,
}: {
  findEach: FindEach
  /** Undefined: the generation is deleted. */
  onLoaded: (subscriber: S, generation: Generation | undefined) => void
  clock: Clock
  log: Log
}) => {
  const startDeadline = createDeadlines(clock)
  const waiting = new Set<S>()
  const loading = new Set<S>()

  const load = async () => {
    const batch = [...waiting]
    waiting.clear()
    if (batch.length === 0) return
    for (const subscriber of batch) loading.add(subscriber)
    let generations: readonly (Generation | undefined)[] | undefined
    try {
      const queries = batch.map(({ generationId: id, permission: { userId } }) => ({ id, userId }))
      generations = await findEach(startDeadline(loadTimeoutMs), queries)
    } catch (error) {
      log.debug({ error }, 'generations that ended could not be loaded')
    }
    loading.clear()
    if (generations !== undefined) {
      for (const [index, subscriber] of batch.entries()) onLoaded(subscriber, generations[index])
    }
    if (waiting.size > 0) void load()
  }

  return {
    /** Does nothing while a load for this subscriber is under way. */
    request: (subscriber: S): void => {
      if (loading.has(subscriber)) return
      if (waiting.size === 0 && loading.size === 0) queueMicrotask(() => void load())
      waiting.add(subscriber)
    },
    cancel: (subscriber: S): void => void waiting.delete(subscriber),
  }
}
