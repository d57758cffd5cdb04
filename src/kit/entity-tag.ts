/** The entity tag of a thing that never changes, by a name of it (RFC 9110 §8.8.3). */
export const entityTag = (name: string): string => `"${name}"`

/** Whether an `If-None-Match` header names this tag, so that the client has it already: weak comparison, or `*`. */
export const matchesEntityTag = (header: string | null, tag: string): boolean =>
  (header ?? '')
    .split(',')
    .map((part) => part.trim())
    .some((given) => given === '*' || given === tag || given === `W/${tag}`)
