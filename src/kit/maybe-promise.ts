/** What needs no waiting when it is in memory: a promise that is already settled would cost more than the answer. */
export type MaybePromise<T> = T | Promise<T>

/** Goes on with a value: at once when it is there, else when it comes. */
export const mapMaybePromise = <T, U>(value: MaybePromise<T>, next: (known: T) => U): MaybePromise<U> =>
  value instanceof Promise ? value.then(next) : next(value)
