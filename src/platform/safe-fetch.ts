import { lookup } from 'node:dns/promises'
import type { ClientRequest, IncomingMessage } from 'node:http'
import { request } from 'node:https'
import { isIP } from 'node:net'
import { maxSliceBytes, rejectOnAbort, yieldToEventLoop } from '../kit/async.ts'
import { isPublicAddress } from '../kit/public-address.ts'

export type FetchRefusal = 'url' | 'host' | 'address' | 'redirects' | 'status' | 'type' | 'size'

/** Raised for what is not fetched, or not taken. No part of the URL but its host is in it: the rest may be a secret. */
export class FetchRefused extends Error {
  override readonly name = 'FetchRefused'
  readonly reason: FetchRefusal
  /** What was answered, when it was that. */
  readonly status: number | undefined
  readonly retryAfter: string | undefined
  constructor(refusedFor: FetchRefusal, message: string, response?: IncomingMessage) {
    super(message)
    this.reason = refusedFor
    this.status = response?.statusCode
    this.retryAfter = response?.headers['retry-after']
  }
}

/** All addresses a name has. */
export type Resolve = (name: string) => Promise<readonly string[]>
/** Begins a GET on a connection to one of these addresses, which are not looked up again; the signal ends it anywhere. */
export type Connect = (
  url: URL,
  addresses: readonly string[],
  options: { headers: Readonly<Record<string, string>>; signal: AbortSignal },
) => ClientRequest

export type FetchLimits = {
  /** Names that are good, with all below them. */
  readonly hosts: readonly string[]
  /** Media types that are good, without parameters. */
  readonly types: readonly string[]
  readonly maxBytes: number
  /** The deadline of it all: names, connections, redirects and bytes. */
  readonly signal: AbortSignal
}

/**
 * Fetches a URL that somebody else named.
 *
 * Promise: only https to a name that is allowed, on its usual port, and only when every address the name has is a public
 * one; the connection goes to the addresses that were looked at. The same holds for each redirect, of which three are
 * followed. No credentials, no cookies, no proxy, no compression. Resolves to the whole body, never to a part of it.
 * How it fails: `FetchRefused` for what it will not fetch or take, whatever the network raised, or the signal's reason.
 */
export type SafeFetch = (url: string, limits: FetchLimits) => Promise<Uint8Array>

const maxRedirects = 3
const redirects = new Set([301, 302, 303, 307, 308])

const resolveBySystem: Resolve = async (name) => (await lookup(name, { all: true })).map(({ address }) => address)

/** Keeps the name for TLS and the Host header, and takes the addresses as given. */
export const connectTo: Connect = (url, addresses, { headers, signal }) => {
  const known = addresses.map((address) => ({ address, family: isIP(address) }))
  return request(url, {
    headers,
    signal,
    // A connection of its own, which ends with it.
    agent: false,
    rejectUnauthorized: true,
    lookup: (_name, options, done) => {
      if (options.all) done(null, known)
      else done(null, known[0]?.address ?? '', known[0]?.family)
    },
  })
}

const isBelow = (host: string, allowed: string) => host === allowed || host.endsWith(`.${allowed}`)

const parseUrl = (text: string, base?: URL): URL => {
  const url = URL.parse(text, base)
  if (url === null) throw new FetchRefused('url', 'What was named is not a URL')
  if (url.protocol !== 'https:' || url.port !== '' || url.username !== '' || url.password !== '') {
    throw new FetchRefused('url', 'A URL is not one of https on its usual port, without credentials')
  }
  return url
}

const checkedAddresses = async (url: URL, resolve: Resolve, { hosts, signal }: FetchLimits) => {
  const host = url.hostname.replace(/^\[|\]$/g, '')
  if (!hosts.some((allowed) => isBelow(host, allowed))) throw new FetchRefused('host', `${host} is not allowed`)
  const addresses = isIP(host) === 0 ? await rejectOnAbort(resolve(host), signal) : [host]
  if (addresses.length === 0 || !addresses.every(isPublicAddress)) {
    throw new FetchRefused('address', `${host} has an address that is not public`)
  }
  return addresses
}

const responseTo = (sent: ClientRequest): Promise<IncomingMessage> =>
  new Promise((resolve, reject) => {
    // Both listen to errors for good: one that comes after its time would else end the process.
    sent.once('response', (response) => resolve(response.on('error', () => {})))
    sent.on('error', reject)
    sent.end()
  })

/** One after the other in one piece; others have their turn in between, since 64 MiB at once would be felt by everybody. */
const concatenate = async (chunks: Uint8Array[], bytes: number): Promise<Uint8Array> => {
  const whole = new Uint8Array(bytes)
  let at = 0
  let since = 0
  for (const chunk of chunks) {
    whole.set(chunk, at)
    at += chunk.byteLength
    since += chunk.byteLength
    if (since < maxSliceBytes) continue
    since = 0
    await yieldToEventLoop()
  }
  return whole
}

const readWhole = async (response: IncomingMessage, host: string, { maxBytes }: FetchLimits) => {
  const tooLarge = () => new FetchRefused('size', `${host} sends more than ${maxBytes} bytes`)
  if (Number(response.headers['content-length'] ?? 0) > maxBytes) throw tooLarge()
  const chunks: Uint8Array[] = []
  let bytes = 0
  for await (const chunk of response as AsyncIterable<Uint8Array>) {
    bytes += chunk.byteLength
    if (bytes > maxBytes) throw tooLarge()
    chunks.push(chunk)
  }
  if (!response.complete) throw new Error(`${host} ended its answer early`)
  return concatenate(chunks, bytes)
}

const checkHead = (response: IncomingMessage, host: string, { types }: FetchLimits) => {
  const { statusCode, headers } = response
  if (statusCode !== 200) throw new FetchRefused('status', `${host} answered ${statusCode}`, response)
  const type = headers['content-type']?.split(';', 1)[0]?.trim().toLowerCase() ?? ''
  if (!types.includes(type) || (headers['content-encoding'] ?? 'identity') !== 'identity') {
    throw new FetchRefused('type', `${host} sends another type than ${types.join(', ')}`)
  }
}

/** What looks up names and what connects are arguments, so that a test can see that nothing was connected to. */
export const createSafeFetch = ({
  resolve = resolveBySystem,
  connect = connectTo,
}: {
  resolve?: Resolve
  connect?: Connect
} = {}): SafeFetch => {
  const follow = async (url: URL, limits: FetchLimits, left: number): Promise<Uint8Array> => {
    const { signal, types } = limits
    const addresses = await checkedAddresses(url, resolve, limits)
    const headers = { accept: types.join(', '), 'accept-encoding': 'identity' }
    const sent = connect(url, addresses, { headers, signal })
    let next: URL
    try {
      const response = await responseTo(sent)
      const { location } = response.headers
      if (!redirects.has(response.statusCode ?? 0) || location === undefined) {
        checkHead(response, url.hostname, limits)
        return await readWhole(response, url.hostname, limits)
      }
      if (left === 0) throw new FetchRefused('redirects', `${url.hostname} redirects once too often`)
      next = parseUrl(location, url)
    } finally {
      sent.destroy()
    }
    return follow(next, limits, left - 1)
  }

  return async (url, limits) => {
    try {
      limits.signal.throwIfAborted()
      return await follow(parseUrl(url), limits, maxRedirects)
    } catch (error) {
      // What a connection says that was cut off by the signal differs from runtime to runtime.
      throw limits.signal.aborted ? limits.signal.reason : error
    }
  }
}
