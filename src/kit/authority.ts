/**
 * The names and addresses that a client can connect to: a DNS name, an IPv4 address, or an IPv6 address in brackets, with a
 * port.
 */
const hostPattern = /^(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{0,5})?$/

const scheme = 'http://'
const maxRemembered = 256

/** The starts that the URL of a request with this Host may have: as sent, and as a URL parser writes it. Undefined: not valid. */
const urlStartsOf = (host: string): readonly [string, string] | undefined => {
  const canonical = hostPattern.test(host) ? URL.parse(`${scheme}${host}/`)?.href : undefined
  return canonical === undefined ? undefined : [`${scheme}${host}/`, canonical]
}

/** The authority of a URL whose path begins at its first slash; empty for any other text. */
const authorityOf = (url: string): string => {
  const pathAt = url.indexOf('/', scheme.length)
  return url.startsWith(scheme) && pathAt > 0 ? url.slice(scheme.length, pathAt) : ''
}

/**
 * Decides whether the path of a request can be read from its URL (RFC 9112 §3.2). Both runtimes put the Host header before
 * the request target, so a Host with other characters than a host and a port moves the start of the path, and two Host
 * headers arrive as one value with a comma.
 *
 * Guarantee: where it answers true, everything from the first slash after the authority on is the request target as the
 * client sent it. A request without a Host header, which HTTP/1.0 permits, needs a valid authority in its URL only.
 * Cost: two comparisons for the Host of the request before, one look-up more for one among the last `maxRemembered`.
 */
export const createHostCheck = (): ((url: string, host: string | null) => boolean) => {
  const remembered = new Map<string, readonly [string, string]>()
  let lastHost = ''
  let lastStart = `${scheme}/`
  return (url, host) => {
    if (host === lastHost && url.startsWith(lastStart)) return true
    if (host !== null) {
      let starts = remembered.get(host)
      if (starts === undefined) {
        starts = urlStartsOf(host)
        if (starts === undefined) return false
        if (remembered.size >= maxRemembered) remembered.clear()
        remembered.set(host, starts)
      }
      const start = starts.find((each) => url.startsWith(each))
      if (start !== undefined) {
        lastHost = host
        lastStart = start
        return true
      }
    }
    // The target is a whole URL (absolute-form), whose authority takes the place of the Host header.
    return urlStartsOf(authorityOf(url)) !== undefined
  }
}

/** The path of such a URL, and its query if it has one. */
export const pathAndQueryOf = (url: string): string => url.slice(url.indexOf('/', scheme.length))

/** The path of a URL that `createHostCheck` accepts, as the router reads it. */
export const pathOf = (url: string): string => {
  const pathAt = url.indexOf('/', scheme.length)
  const queryAt = url.indexOf('?', pathAt)
  return queryAt === -1 ? url.slice(pathAt) : url.slice(pathAt, queryAt)
}
