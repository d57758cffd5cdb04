import { RangeNotSatisfiable } from '../kit/byte-range.ts'
import type { Breakers } from './breaker.ts'
import { ObjectContentRefused, ObjectKeyRefused, type ObjectStore, ObjectTooLarge } from './objects.ts'

/** Whether the store failed, rather than refused a call that is wrong. */
const isFailure = (error: unknown): boolean =>
  !(
    error instanceof ObjectKeyRefused ||
    error instanceof ObjectTooLarge ||
    error instanceof ObjectContentRefused ||
    error instanceof RangeNotSatisfiable
  )

/** A store behind a breaker: while that is open calls fail at once. The probe goes around it. */
export const guardObjects = (objects: ObjectStore, breakers: Pick<Breakers, 'create'>): ObjectStore => {
  const breaker = breakers.create({ dependency: 'storage', isFailure })
  const guarded =
    <A extends unknown[], R>(call: (...values: A) => Promise<R>) =>
    (...values: A): Promise<R> =>
      breaker.execute(() => call(...values))
  return {
    put: guarded(objects.put),
    open: guarded(objects.open),
    head: guarded(objects.head),
    delete: guarded(objects.delete),
    list: guarded(objects.list),
    probe: objects.probe,
  }
}
