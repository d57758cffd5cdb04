import { namedOrigins } from '../kit/origin.ts'

type Settings = {
  readonly publicUrl: string | undefined
  /** Patterns with a wildcard are ignored: cookies are for origins that are named one by one. */
  readonly corsOrigins: readonly string[]
}

/**
 * Decides whether a request to which a browser added cookies may use them, because a page that may act for the person sent it.
 *
 * Guarantee: a request that changes anything needs an `Origin` that is this service's own or named in the configuration, or
 * none and `Sec-Fetch-Site: same-origin`. One that only reads may lack both. A page of another origin can read by cookies only
 * where it is named, or where a person follows a link.
 */
export type OriginRule = {
  /** Whether the `Origin` is named in the configuration, so that its pages may send cookies and read the answers. */
  isNamed(origin: string): boolean
  admits(request: Request): boolean
}

const isSafe = (method: string) => method === 'GET' || method === 'HEAD' || method === 'OPTIONS'

/** Whether the origin is the one that the Host header names, over http or https: a proxy may have ended TLS. */
const isOfHost = (origin: string, host: string | null): boolean => {
  const scheme = /^https?:/.exec(origin)?.[0]
  return scheme !== undefined && host !== null && URL.parse(`${scheme}//${host}`)?.origin === origin
}

export const createOriginRule = ({ publicUrl, corsOrigins }: Settings): OriginRule => {
  const named = namedOrigins(corsOrigins)
  return {
    isNamed: (origin) => named.has(origin),
    admits: ({ method, headers }) => {
      const origin = headers.get('origin')
      const site = headers.get('sec-fetch-site')
      if (origin === null) {
        if (!isSafe(method)) return site === 'same-origin'
        // `none`: a person typed the address. Another site may link to it, but not embed it.
        return (
          site === null || site === 'same-origin' || site === 'none' || headers.get('sec-fetch-mode') === 'navigate'
        )
      }
      if (named.has(origin)) return true
      if (site !== null && site !== 'same-origin') return false
      return publicUrl === undefined ? isOfHost(origin, headers.get('host')) : origin === publicUrl
    },
  }
}
