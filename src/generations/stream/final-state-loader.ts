import type { RecheckedPermission } from '../../access/permission-recheck.ts'
import type { Clock } from '../../kit/clock.ts'
import { createDeadline, type Deadline } from '../../kit/deadline.ts'
import type { Log } from '../../platform/log.ts'
import type { Generation } from '../model.ts'

const readingMs = 2_000

/** Whole generations as their watchers have them, in the order asked; undefined for what is gone. */
export type FindEach = (
  deadline: Deadline,
  wanted: readonly { readonly id: string; readonly userId: string }[],
) => Promise<readonly (Generation | undefined)[]>

/** Gets the last word for those whose generation is over: all that ask at one moment by one statement, one at a time. */
export const createFinisher = <S extends { readonly generationId: string; readonly right: RecheckedPermission }>({
  findEach,
  onFound,
  clock,
  log,
}: {
  findEach: FindEach
  onFound: (one: S, whole: Generation | undefined) => void
  clock: Clock
  log: Log
}) => {
  const waiting = new Set<S>()
  const asking = new Set<S>()

  const ask = async () => {
    const some = [...waiting]
    waiting.clear()
    if (some.length === 0) return
    for (const one of some) asking.add(one)
    let found: readonly (Generation | undefined)[] | undefined
    try {
      const wanted = some.map(({ generationId: id, right: { userId } }) => ({ id, userId }))
      found = await findEach(createDeadline(clock, readingMs), wanted)
    } catch (error) {
      log.debug({ error }, 'finished generations could not be read')
    }
    asking.clear()
    if (found !== undefined) for (const [place, one] of some.entries()) onFound(one, found[place])
    if (waiting.size > 0) void ask()
  }

  return {
    /** Whoever is not found something for, because it failed, has to ask again. */
    want: (one: S): void => {
      if (asking.has(one)) return
      if (waiting.size === 0 && asking.size === 0) queueMicrotask(() => void ask())
      waiting.add(one)
    },
    drop: (one: S): void => void waiting.delete(one),
  }
}
