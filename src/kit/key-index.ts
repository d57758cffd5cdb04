/**
 * Values by their keys. A key may have the form `group:id`, with few groups and many ids: `getIn` finds its value by the two,
 * without making the key. To join two texts, and to hash the result, takes longer than to find it.
 */
export type KeyIndex<E> = {
  get(key: string): E | undefined
  /** As `get` of `group:id`. */
  getIn(group: string, id: string): E | undefined
  set(key: string, value: E): void
  delete(key: string): void
  clear(): void
  /** In insertion order, oldest first, each group by itself. The iterator stays valid while keys are added and removed. */
  keys(): Iterator<string>
  readonly size: number
}

const separator = ':'

export const createPlainIndex = <E>(): KeyIndex<E> => {
  const values = new Map<string, E>()
  return {
    get: (key) => values.get(key),
    getIn: (group, id) => values.get(group + separator + id),
    set: (key, value) => void values.set(key, value),
    delete: (key) => void values.delete(key),
    clear: () => values.clear(),
    keys: () => values.keys(),
    get size() {
      return values.size
    },
  }
}

const groupOf = (key: string): string => key.slice(0, key.indexOf(separator))
const idOf = (key: string): string => key.slice(key.indexOf(separator) + 1)

/** All keys have the form `group:id`. A group that was used once is kept. */
export const createGroupedIndex = <E>(): KeyIndex<E> => {
  const groups = new Map<string, Map<string, E>>()
  let size = 0

  function* keys() {
    for (const [group, values] of groups) for (const id of values.keys()) yield group + separator + id
  }

  return {
    get: (key) => groups.get(groupOf(key))?.get(idOf(key)),
    getIn: (group, id) => groups.get(group)?.get(id),
    set: (key, value) => {
      const group = groupOf(key)
      let values = groups.get(group)
      if (values === undefined) {
        values = new Map()
        groups.set(group, values)
      }
      const before = values.size
      values.set(idOf(key), value)
      size += values.size - before
    },
    delete: (key) => {
      if (groups.get(groupOf(key))?.delete(idOf(key)) === true) size -= 1
    },
    clear: () => {
      groups.clear()
      size = 0
    },
    keys,
    get size() {
      return size
    },
  }
}
