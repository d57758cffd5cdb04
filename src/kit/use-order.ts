/** A member of a `UseOrder`, which alone sets these two. */
export type Ordered<E> = { newer: E | undefined; older: E | undefined }

/**
 * Entries in the order of their last use, as a doubly linked list through them: to move an entry costs a tenth of inserting it
 * into a Map again.
 */
export const createUseOrder = <E extends Ordered<E>>() => {
  let newest: E | undefined
  let oldest: E | undefined

  const add = (entry: E): void => {
    entry.newer = undefined
    entry.older = newest
    if (newest === undefined) oldest = entry
    else newest.newer = entry
    newest = entry
  }

  const remove = (entry: E): void => {
    if (entry.newer === undefined) newest = entry.older
    else entry.newer.older = entry.older
    if (entry.older === undefined) oldest = entry.newer
    else entry.older.newer = entry.newer
  }

  return {
    add,
    remove,
    markUsed: (entry: E): void => {
      if (entry === newest) return
      remove(entry)
      add(entry)
    },
    clear: (): void => {
      newest = undefined
      oldest = undefined
    },
    get newest() {
      return newest
    },
    get oldest() {
      return oldest
    },
  }
}
