import type { FactKey } from '../policy/facts/registry.ts'

/** The facts that one committed transaction made untrue; `everything` where there are too many to name. */
export type InvalidationKeys = readonly FactKey[] | 'everything'

/** All keys of one committed transaction, published once. */
export type InvalidationEvent = { readonly id: string; readonly keys: InvalidationKeys }

/** Keys as they are stored and sent: `*` stands for everything. */
export const toInvalidationKeys = (keys: readonly string[]): InvalidationKeys =>
  keys[0] === '*' ? 'everything' : (keys as FactKey[])
