/** How far a reader is behind, in milliseconds: the age of the oldest entry that it has not read. Null: it has read all. */
export type ReadLag = () => number | null

/**
 * The readers of tables to which others append: queues of work, and what is passed on elsewhere. A reader learns of a new entry
 * by a notification, and looks by itself at an interval too, because a notification may be lost.
 */
export type Readers = {
  /** Adds a reader with a name of its own. `lag` reads memory alone. */
  register(name: string, lag: ReadLag): void
  list(): readonly { readonly name: string; readonly lagMs: number | null }[]
}

export const createReaders = (): Readers => {
  const readers = new Map<string, ReadLag>()
  return {
    register: (name, lag) => {
      if (readers.has(name)) throw new Error(`The reader "${name}" is registered already`)
      readers.set(name, lag)
    },
    list: () => [...readers].map(([name, lag]) => ({ name, lagMs: lag() })),
  }
}
