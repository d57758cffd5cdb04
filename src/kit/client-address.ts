import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'

/**
 * The address a request really comes from: the socket's peer, unless that peer is a proxy we trust; then the last
 * address of `X-Forwarded-For` that no trusted proxy added. What a stranger writes into the header is never believed: the
 * walk from the right ends at the first hop that is not an address, and the peer is the answer.
 */
export const clientAddress = (peer: string, forwardedFor: string | null, trusted: ReadonlySet<string>): string => {
  const direct = canonicalAddress(peer)
  if (forwardedFor === null || !trusted.has(direct)) return direct
  for (const hop of forwardedFor.split(',').reverse()) {
    const address = canonicalAddress(hop)
    if (!isAddress(address)) return direct
    if (!trusted.has(address)) return address
  }
  return direct
}

/**
 * The one spelling of an address, without a port (RFC 5952), and IPv4 as such: a dual-stack socket gives
 * `::ffff:192.0.2.1` for it. What is no address is only trimmed.
 */
export const canonicalAddress = (text: string): string => {
  const short = text.startsWith('::ffff:') ? text.slice(7) : text
  if (isIP(short) === 4) return short
  const trimmed = text.trim()
  const bare = /^\[([^\]]*)\](?::\d+)?$/.exec(trimmed)?.[1] ?? /^([\d.]+):\d+$/.exec(trimmed)?.[1] ?? trimmed
  return isAddress(bare) ? ipaddr.process(bare).toString() : bare
}

/** In any spelling, without a port. What names an interface is none: another host could not reach it. */
export const isAddress = (text: string): boolean => isIP(text) !== 0 && !text.includes('%')
