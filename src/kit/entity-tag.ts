/** A strong entity tag (RFC 9110 §8.8.3) for immutable content with a unique name. */
export const entityTag = (name: string): string => `"${name}"`

/** Whether an `If-None-Match` header matches the tag, by weak comparison or `*`: the client has the current version. */
export const matchesEntityTag = (header: string | null, tag: string): boolean =>
  (header ?? '')
    .split(',')
    .map((part) => part.trim())
    .some((candidate) => candidate === '*' || candidate === tag || candidate === `W/${tag}`)
