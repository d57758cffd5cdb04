/** How a cookie is set. Ours are all `Secure`, `HttpOnly` and of the whole host, as names that start with `__Host-` require. */
type Attributes = { readonly sameSite: 'lax' | 'none'; readonly maxAgeSeconds: number }

const sameSiteNames = { lax: 'Lax', none: 'None' } as const

/** The `Set-Cookie` field of a cookie whose value needs no quoting (RFC 6265 §4.1.1). A lifetime of 0 deletes it. */
export const formatSetCookie = (name: string, value: string, { sameSite, maxAgeSeconds }: Attributes): string =>
  `${name}=${value}; Path=/; Max-Age=${maxAgeSeconds}; HttpOnly; Secure; SameSite=${sameSiteNames[sameSite]}`

const isBlank = (character: string | undefined) => character === ' ' || character === '\t'

/**
 * The values of a cookie in a `Cookie` field, in their order. A browser sends one at most. Only a semicolon separates cookies: a
 * sibling host can put a comma, and what looks like another cookie, into the value of a cookie that it sets for all of the domain.
 */
export const valuesOfCookie = (field: string, name: string): readonly string[] => {
  const start = `${name}=`
  const values: string[] = []
  for (let at = field.indexOf(start); at !== -1; at = field.indexOf(start, at + 1)) {
    let before = at - 1
    while (isBlank(field[before])) before -= 1
    if (before >= 0 && field[before] !== ';') continue
    const end = field.indexOf(';', at)
    values.push(field.slice(at + start.length, end === -1 ? undefined : end).trimEnd())
  }
  return values
}
