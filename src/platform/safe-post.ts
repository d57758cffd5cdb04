import { Buffer } from 'node:buffer'
import { isIP } from 'node:net'
import { isPublicAddress } from '../kit/public-address.ts'
import {
  addressesOf,
  type Connect,
  connectTo,
  FetchRefused,
  hostOf,
  publicAddressesOf,
  type Resolve,
  responseTo,
  systemResolve,
} from './safe-fetch.ts'

export const maxUrlLength = 2_048
export const allowedPorts = ['443', '8443']

export type Posting = {
  /** JSON text. */
  readonly body: string
  readonly headers: Readonly<Record<string, string>>
  /** The deadline of the whole exchange: lookup, connection, request and response. */
  readonly signal: AbortSignal
  /**
   * The receivers in our own network that this request may reach, each as `host:port`: by http or https, at any port and any
   * address.
   */
  readonly internalHosts: readonly string[]
}

/** What a receiver answered. Its body is read and thrown away, so that nothing of it can be shown to anyone. */
export type PostAnswer = { readonly status: number; readonly retryAfter: string | undefined }

/**
 * Sends a POST to a URL that a user chose (guards against server-side request forgery).
 *
 * Promise: connects only by https, on port 443 or 8443, and only when all addresses of the host are public; the connection uses
 * exactly the addresses that were checked, so DNS rebinding has no effect. Only the hosts in `internalHosts` are exempt.
 * Redirects are not followed. No credentials, cookies, proxy or idle connections. Resolves once the response has ended, or its
 * first 64 KiB were read. Rejects with `FetchRefused`, an error of the network, or the signal's reason.
 */
export type SafePost = (url: string, posting: Posting) => Promise<PostAnswer>

const maxAnswerBytes = 65_536

/** The host and the port of a URL, as `internalHosts` names them. */
const placeOf = (url: URL): string => {
  const port = url.port === '' ? (url.protocol === 'http:' ? '80' : '443') : url.port
  return `${url.hostname}:${port}`
}

const isInternal = (url: URL, internalHosts: readonly string[]): boolean =>
  /^https?:$/.test(url.protocol) && internalHosts.includes(placeOf(url))

/**
 * Parses the URL of a receiver, and checks what needs no lookup: addresses of names are checked when it is used. Throws
 * `FetchRefused`.
 */
export const parseReceiverUrl = (text: string, internalHosts: readonly string[]): URL => {
  const url = URL.parse(text)
  if (url === null || url.href.length > maxUrlLength) throw new FetchRefused('url', 'The URL is malformed')
  if (url.username !== '' || url.password !== '' || url.hash !== '') {
    throw new FetchRefused('url', 'The URL must contain no credentials and no fragment')
  }
  if (isInternal(url, internalHosts)) return url
  if (url.protocol !== 'https:' || !allowedPorts.includes(url.port === '' ? '443' : url.port)) {
    throw new FetchRefused('url', `The URL must use https on port ${allowedPorts.join(' or ')}`)
  }
  const host = hostOf(url)
  if (isIP(host) !== 0 && !isPublicAddress(host)) {
    throw new FetchRefused('address', `The address ${host} is not public`)
  }
  return url
}

const post = async (url: URL, addresses: readonly string[], connect: Connect, { body, headers, signal }: Posting) => {
  const length = String(Buffer.byteLength(body))
  const sent = connect(url, addresses, { method: 'POST', headers: { ...headers, 'content-length': length }, signal })
  try {
    const response = await responseTo(sent, body)
    const answer = { status: response.statusCode ?? 0, retryAfter: response.headers['retry-after'] }
    let bytes = 0
    try {
      for await (const chunk of response as AsyncIterable<Uint8Array>) {
        bytes += chunk.byteLength
        if (bytes > maxAnswerBytes) break
      }
    } catch {
      // The head of the response is the answer.
    }
    return answer
  } finally {
    sent.destroy()
  }
}

/** Lookup and connect are arguments, so that a test can prove that no connection was made. */
export const createSafePost =
  ({ resolve = systemResolve, connect = connectTo }: { resolve?: Resolve; connect?: Connect } = {}): SafePost =>
  async (text, posting) => {
    const { signal, internalHosts } = posting
    try {
      signal.throwIfAborted()
      const url = parseReceiverUrl(text, internalHosts)
      const find = isInternal(url, internalHosts) ? addressesOf : publicAddressesOf
      return await post(url, await find(url, resolve, signal), connect, posting)
    } catch (error) {
      // The runtimes raise different errors for a connection that the signal ended.
      throw signal.aborted ? signal.reason : error
    }
  }
