/** Origins of the web, whose spelling is fixed by URL parsers. */
const isWebOrigin = (text: string): boolean => /^https?:/.test(text) && URL.parse(text)?.origin === text

/** Schemes that no page has as its origin, or whose origin browsers send as `null`. */
const otherSchemes = new Set(['http', 'https', 'ws', 'wss', 'ftp', 'file', 'data', 'blob', 'about', 'javascript'])

/** The origin of an app or an extension, such as `capacitor://localhost`, `tauri://localhost` or `chrome-extension://<id>`. */
const isAppOrigin = (text: string): boolean => {
  const [, scheme] = /^([a-z][a-z0-9+.-]*):\/\/[A-Za-z0-9._-]+(?::\d{1,5})?$/.exec(text) ?? []
  return scheme !== undefined && !otherSchemes.has(scheme)
}

/** The parts of a wildcard origin. The name after `*.` needs a dot, because the names below `com` have many owners. */
const wildcard = /^(https?:\/\/)\*\.((?:[a-z0-9-]+\.)+[a-z][a-z0-9-]*|localhost)((?::\d{1,5})?)$/

const wildcardPartsOf = (text: string): readonly [scheme: string, suffix: string] | undefined => {
  const [, scheme, host, port] = wildcard.exec(text) ?? []
  return scheme !== undefined && isWebOrigin(`${scheme}${host}${port}`) ? [scheme, `.${host}${port}`] : undefined
}

/** An origin as `Origin` headers have it (RFC 6454), or one whose host begins with `*.` for every subdomain. */
export const isOriginPattern = (text: string): boolean =>
  wildcardPartsOf(text) !== undefined || (!text.includes('*') && (isWebOrigin(text) || isAppOrigin(text)))

/** The patterns that name one origin each. */
export const namedOrigins = (patterns: readonly string[]): ReadonlySet<string> =>
  new Set(patterns.filter((pattern) => !pattern.includes('*')))

const subdomain = /^[a-z0-9_-]+(?:\.[a-z0-9_-]+)*$/

/**
 * Whether an `Origin` header is one of the patterns. `https://*.example.com` stands for every subdomain at any depth, with
 * the same scheme and port, and not for `https://example.com` itself.
 */
export const createOriginMatcher = (patterns: readonly string[]): ((origin: string) => boolean) => {
  const exact = new Set(patterns)
  const wildcards = patterns.flatMap((pattern) => {
    const parts = wildcardPartsOf(pattern)
    return parts === undefined ? [] : [parts]
  })
  return (origin) =>
    exact.has(origin) ||
    wildcards.some(
      ([scheme, suffix]) =>
        origin.startsWith(scheme) &&
        origin.endsWith(suffix) &&
        origin.length > scheme.length + suffix.length &&
        subdomain.test(origin.slice(scheme.length, origin.length - suffix.length)),
    )
}
