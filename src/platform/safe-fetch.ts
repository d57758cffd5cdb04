import { lookup } from 'node:dns/promises'
import { type ClientRequest, request as httpRequest, type IncomingMessage } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { isIP } from 'node:net'
import { maxSliceBytes, rejectOnAbort, yieldToEventLoop } from '../kit/async.ts'
import { isPublicAddress } from '../kit/public-address.ts'

export type FetchRefusal = 'url' | 'host' | 'address' | 'redirects' | 'status' | 'type' | 'size'

/** Raised when a URL is not fetched or its response not accepted. Contains only the host of the URL: the rest may be a secret. */
export class FetchRefused extends Error {
  override readonly name = 'FetchRefused'
  readonly reason: FetchRefusal
  /** Status of the response, if there was one. */
  readonly status: number | undefined
  readonly retryAfter: string | undefined
  constructor(reason: FetchRefusal, message: string, response?: IncomingMessage) {
    super(message)
    this.reason = reason
    this.status = response?.statusCode
    this.retryAfter = response?.headers['retry-after']
  }
}

/** Resolves a name to all its addresses. */
export type Resolve = (name: string) => Promise<readonly string[]>
/** Starts a request on a new connection to one of these addresses, without another lookup. The signal ends it at any stage. */
export type Connect = (
  url: URL,
  addresses: readonly string[],
  options: {
    /** Default: GET. */
    method?: 'GET' | 'POST'
    headers: Readonly<Record<string, string>>
    signal: AbortSignal
  },
) => ClientRequest

export type FetchLimits = {
  /** Allowed host names; their subdomains are allowed too. */
  readonly hosts: readonly string[]
  /** Accepted media types, without parameters. */
  readonly types: readonly string[]
  readonly maxBytes: number
  /** The deadline of the whole fetch: lookups, connections, redirects and body. */
  readonly signal: AbortSignal
}

/**
 * Fetches an untrusted URL (guards against server-side request forgery).
 *
 * Promise: connects only by https, on port 443, to an allowed host, and only when all addresses of the host are public; the
 * connection uses exactly the addresses that were checked, so DNS rebinding has no effect. Every redirect is checked in the
 * same way; at most three are followed. No credentials, cookies, proxy or compression. Resolves to the complete body, never
 * to a part of it. Rejects with `FetchRefused`, an error of the network, or the signal's reason.
 */
export type SafeFetch = (url: string, limits: FetchLimits) => Promise<Uint8Array>

const maxRedirects = 3
const redirectStatuses = new Set([301, 302, 303, 307, 308])

export const systemResolve: Resolve = async (name) => (await lookup(name, { all: true })).map(({ address }) => address)

/** Uses the name for TLS and the Host header, and the given addresses instead of a lookup. */
export const connectTo: Connect = (url, addresses, { method = 'GET', headers, signal }) => {
  const checked = addresses.map((address) => ({ address, family: isIP(address) }))
  const request = url.protocol === 'http:' ? httpRequest : httpsRequest
  return request(url, {
    method,
    headers,
    signal,
    // A separate connection, closed with the request.
    agent: false,
    rejectUnauthorized: true,
    lookup: (_name, options, done) => {
      if (options.all) done(null, checked)
      else done(null, checked[0]?.address ?? '', checked[0]?.family)
    },
  })
}

const isWithin = (host: string, allowed: string) => host === allowed || host.endsWith(`.${allowed}`)

const parseUrl = (text: string, base?: URL): URL => {
  const url = URL.parse(text, base)
  if (url === null) throw new FetchRefused('url', 'The URL is malformed')
  if (url.protocol !== 'https:' || url.port !== '' || url.username !== '' || url.password !== '') {
    throw new FetchRefused('url', 'The URL must use https on port 443 and contain no credentials')
  }
  return url
}

/** The host of a URL, an IPv6 address without its brackets. */
export const hostOf = (url: URL): string => url.hostname.replace(/^\[|\]$/g, '')

/** All addresses of the host of a URL: itself, if it is one. */
export const addressesOf = async (url: URL, resolve: Resolve, signal: AbortSignal): Promise<readonly string[]> => {
  const host = hostOf(url)
  return isIP(host) === 0 ? rejectOnAbort(resolve(host), signal) : [host]
}

/** As `addressesOf`. Throws `FetchRefused` unless the host has addresses and all of them are public. */
export const publicAddressesOf = async (url: URL, resolve: Resolve, signal: AbortSignal) => {
  const addresses = await addressesOf(url, resolve, signal)
  if (addresses.length === 0 || !addresses.every(isPublicAddress)) {
    throw new FetchRefused('address', `The host ${hostOf(url)} has an address that is not public`)
  }
  return addresses
}

const checkedAddresses = async (url: URL, resolve: Resolve, { hosts, signal }: FetchLimits) => {
  const host = hostOf(url)
  if (!hosts.some((allowed) => isWithin(host, allowed)))
    throw new FetchRefused('host', `The host ${host} is not allowed`)
  return publicAddressesOf(url, resolve, signal)
}

/** Sends the request with this body, and resolves to the head of its response. */
export const responseTo = (sent: ClientRequest, body?: string): Promise<IncomingMessage> =>
  new Promise((resolve, reject) => {
    // Both error listeners stay attached: a late error without a listener would end the process.
    sent.once('response', (response) => resolve(response.on('error', () => {})))
    sent.on('error', reject)
    sent.end(body)
  })

/** Concatenates the chunks, and yields to the event loop between slices: copying 64 MiB at once would block it noticeably. */
const concatenate = async (chunks: Uint8Array[], bytes: number): Promise<Uint8Array> => {
  const whole = new Uint8Array(bytes)
  let at = 0
  let sinceYield = 0
  for (const chunk of chunks) {
    whole.set(chunk, at)
    at += chunk.byteLength
    sinceYield += chunk.byteLength
    if (sinceYield < maxSliceBytes) continue
    sinceYield = 0
    await yieldToEventLoop()
  }
  return whole
}

const readWhole = async (response: IncomingMessage, host: string, { maxBytes }: FetchLimits) => {
  const tooLarge = () => new FetchRefused('size', `The response of ${host} is larger than ${maxBytes} bytes`)
  if (Number(response.headers['content-length'] ?? 0) > maxBytes) throw tooLarge()
  const chunks: Uint8Array[] = []
  let bytes = 0
  for await (const chunk of response as AsyncIterable<Uint8Array>) {
    bytes += chunk.byteLength
    if (bytes > maxBytes) throw tooLarge()
    chunks.push(chunk)
  }
  if (!response.complete) throw new Error(`The response of ${host} ended early`)
  return concatenate(chunks, bytes)
}

const checkHead = (response: IncomingMessage, host: string, { types }: FetchLimits) => {
  const { statusCode, headers } = response
  if (statusCode !== 200) throw new FetchRefused('status', `${host} returned status ${statusCode}`, response)
  const type = headers['content-type']?.split(';', 1)[0]?.trim().toLowerCase() ?? ''
  if (!types.includes(type) || (headers['content-encoding'] ?? 'identity') !== 'identity') {
    throw new FetchRefused('type', `The response of ${host} is not uncompressed content of type ${types.join(', ')}`)
  }
}

/** Lookup and connect are arguments, so that a test can prove that no connection was made. */
export const createSafeFetch = ({
  resolve = systemResolve,
  connect = connectTo,
}: {
  resolve?: Resolve
  connect?: Connect
} = {}): SafeFetch => {
  const follow = async (url: URL, limits: FetchLimits, redirectsLeft: number): Promise<Uint8Array> => {
    const { signal, types } = limits
    const addresses = await checkedAddresses(url, resolve, limits)
    const headers = { accept: types.join(', '), 'accept-encoding': 'identity' }
    const sent = connect(url, addresses, { headers, signal })
    let next: URL
    try {
      const response = await responseTo(sent)
      const { location } = response.headers
      if (!redirectStatuses.has(response.statusCode ?? 0) || location === undefined) {
        checkHead(response, url.hostname, limits)
        return await readWhole(response, url.hostname, limits)
      }
      if (redirectsLeft === 0) {
        throw new FetchRefused('redirects', `${url.hostname} exceeds the limit of ${maxRedirects} redirects`)
      }
      next = parseUrl(location, url)
    } finally {
      sent.destroy()
    }
    return follow(next, limits, redirectsLeft - 1)
  }

  return async (url, limits) => {
    try {
      limits.signal.throwIfAborted()
      return await follow(parseUrl(url), limits, maxRedirects)
    } catch (error) {
      // The runtimes raise different errors for a connection that the signal ended.
      throw limits.signal.aborted ? limits.signal.reason : error
    }
  }
}
