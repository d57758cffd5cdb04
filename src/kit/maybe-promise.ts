/** What needs no waiting when it is in memory: a promise that is already settled would cost more than the answer. */
export type Awaitable<T> = T | Promise<T>

/** Goes on with a value: at once when it is there, else when it comes. */
export const whenKnown = <T, U>(value: Awaitable<T>, next: (known: T) => U): Awaitable<U> =>
  value instanceof Promise ? value.then(next) : next(value)
