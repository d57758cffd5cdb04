/** A strong entity tag (RFC 9110 §8.8.3) for immutable content with a unique name. */
export const entityTag = (name: string): string => `"${name}"`

const candidatesOf = (header: string): string[] => header.split(',').map((part) => part.trim())

/** Whether an `If-Match` header matches the tag, by strong comparison or `*` (RFC 9110 §13.1.1). */
export const matchesStrongly = (header: string, tag: string): boolean =>
  candidatesOf(header).some((candidate) => candidate === '*' || candidate === tag)

/** Whether an `If-None-Match` header matches the tag, by weak comparison or `*`: the client has the current version. */
export const matchesEntityTag = (header: string | null, tag: string): boolean =>
  candidatesOf(header ?? '').some((candidate) => candidate === '*' || candidate === tag || candidate === `W/${tag}`)
