/** A value that is often in memory. Avoids a promise then, which would cost more than the lookup. */
export type MaybePromise<T> = T | Promise<T>

/** Applies `next` at once to a value, or after a promise resolves. */
export const mapMaybePromise = <T, U>(
  value: MaybePromise<T>,
  next: (resolved: T) => MaybePromise<U>,
): MaybePromise<U> => (value instanceof Promise ? value.then(next) : next(value))
