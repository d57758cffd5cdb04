/** A place in a list. */
export type Link<T> = {
  readonly value: T
  readonly before: Link<T> | undefined
  readonly after: Link<T> | undefined
}

/** A doubly linked list: unlike in an array or a `Set`, a value is added at the end and removed anywhere in constant time. */
export type LinkedList<T> = {
  readonly first: Link<T> | undefined
  readonly last: Link<T> | undefined
  readonly size: number
  add(value: T): Link<T>
  /** Removes a link that is in this list. */
  remove(link: Link<T>): void
}

type Node<T> = { value: T; before: Node<T> | undefined; after: Node<T> | undefined }

/** A class for the type of its links, which only it can change. */
class List<T> implements LinkedList<T> {
  first: Node<T> | undefined
  last: Node<T> | undefined
  size = 0

  add(value: T): Node<T> {
    const node: Node<T> = { value, before: this.last, after: undefined }
    if (this.last === undefined) this.first = node
    else this.last.after = node
    this.last = node
    this.size += 1
    return node
  }

  remove(node: Node<T>): void {
    const { before, after } = node
    if (before === undefined) this.first = after
    else before.after = after
    if (after === undefined) this.last = before
    else after.before = before
    this.size -= 1
    // A value that refers to a removed link does not keep the rest of the list from being collected.
    node.before = undefined
    node.after = undefined
  }
}

export const createLinkedList = <T>(): LinkedList<T> => new List<T>()
