import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'

/**
 * The client's address: the socket's peer or, if that is a trusted proxy, the rightmost address of `X-Forwarded-For` that
 * is not a trusted proxy. A client cannot spoof it: the header is read from the right, and only past trusted proxies.
 * Degrades: if a hop is not an address, the result is the peer.
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
 * The canonical text of an address (RFC 5952), without a port. An IPv4-mapped address (`::ffff:192.0.2.1`, as dual-stack
 * sockets report it) becomes plain IPv4. Text that is not an address is only trimmed.
 */
export const canonicalAddress = (text: string): string => {
  const short = text.startsWith('::ffff:') ? text.slice(7) : text
  if (isIP(short) === 4) return short
  const trimmed = text.trim()
  const bare = /^\[([^\]]*)\](?::\d+)?$/.exec(trimmed)?.[1] ?? /^([\d.]+):\d+$/.exec(trimmed)?.[1] ?? trimmed
  return isAddress(bare) ? ipaddr.process(bare).toString() : bare
}

/** True for IPv4 and IPv6 in any spelling, without a port. False with a zone id (`%eth0`): it has no meaning on other hosts. */
export const isAddress = (text: string): boolean => isIP(text) !== 0 && !text.includes('%')

/**
 * The network of a canonical address: its first bits, the rest zero, in CIDR notation. Text that is not an address is its own
 * network.
 */
export const networkOf = (address: string, bits: { readonly v4: number; readonly v6: number }): string => {
  if (!isAddress(address)) return address
  const parsed = ipaddr.parse(address)
  const length = parsed.kind() === 'ipv4' ? bits.v4 : bits.v6
  const bytes = parsed.toByteArray().map((byte, at) => {
    const kept = Math.min(Math.max(length - 8 * at, 0), 8)
    return byte & (0xff00 >> kept)
  })
  return `${ipaddr.fromByteArray(bytes).toString()}/${length}`
}
