import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'

type Range = readonly [ipaddr.IPv4 | ipaddr.IPv6, number]

/** Which peers are proxies whose `X-Forwarded-For` is trusted: a test of addresses, or how many proxies every request passes. */
export type TrustedProxies = { readonly isTrusted: (address: string) => boolean } | { readonly hops: number }

const maxHops = 16

/** True for an address and a range such as `10.0.0.0/8`. False for an IPv4 range written as IPv6. */
export const isAddressRange = (text: string): boolean => {
  if (!text.includes('/')) return isAddress(text)
  try {
    const [address, bits] = ipaddr.parseCIDR(text)
    return bits > 0 && !(address instanceof ipaddr.IPv6 && address.isIPv4MappedAddress())
  } catch {
    return false
  }
}

/** The canonical text of an address or a range that `isAddressRange` accepts. The bits after the prefix are zero. */
export const canonicalRange = (text: string): string => {
  if (!text.includes('/')) return canonicalAddress(text)
  const [address, bits] = ipaddr.parseCIDR(text)
  return networkOf(address.toString(), { v4: bits, v6: bits })
}

/** True for a number of proxies, from 1 to 16. */
export const isHopCount = (text: string): boolean =>
  /^\d{1,2}$/.test(text) && Number(text) >= 1 && Number(text) <= maxHops

const toRange = (text: string): Range => {
  if (text.includes('/')) return ipaddr.parseCIDR(text)
  const address = ipaddr.process(text)
  return [address, address.kind() === 'ipv4' ? 32 : 128]
}

/** Addresses and ranges, or one number of hops. */
export const toTrustedProxies = (items: readonly string[]): TrustedProxies => {
  const [first] = items
  if (first !== undefined && isHopCount(first)) return { hops: Number(first) }
  return { isTrusted: createNetworkMatch(items) }
}

/** Whether a canonical address is one of these addresses, or in one of these ranges. */
export const createNetworkMatch = (items: readonly string[]): ((address: string) => boolean) => {
  const addresses = new Set(items.filter((item) => !item.includes('/')).map(canonicalAddress))
  const ranges = items.filter((item) => item.includes('/')).map(toRange)
  if (ranges.length === 0) return (address) => addresses.has(address)
  return (address) => {
    if (addresses.has(address)) return true
    if (!isAddress(address)) return false
    const parsed = ipaddr.process(address)
    return ranges.some(([network, bits]) => network.kind() === parsed.kind() && parsed.match(network, bits))
  }
}

/**
 * The client's address: the socket's peer or, if that is a trusted proxy, the rightmost address of `X-Forwarded-For` that
 * is not a trusted proxy. With a number of hops: the address that the outermost of that many proxies has written.
 *
 * Guarantee: a client cannot spoof it, because the header is read from the right, and only past trusted proxies. A number of
 * hops is right only where no request reaches the server past the proxies. Degrades: if a hop is not an address, or there are
 * fewer than the number, the result is the peer.
 */
export const clientAddress = (peer: string, forwardedFor: string | null, trusted: TrustedProxies): string => {
  const direct = canonicalAddress(peer)
  if (forwardedFor === null) return direct
  if ('hops' in trusted) {
    const address = canonicalAddress(forwardedFor.split(',').at(-trusted.hops) ?? '')
    return isAddress(address) ? address : direct
  }
  if (!trusted.isTrusted(direct)) return direct
  for (const hop of forwardedFor.split(',').reverse()) {
    const address = canonicalAddress(hop)
    if (!isAddress(address)) return direct
    if (!trusted.isTrusted(address)) return address
  }
  return direct
}

const privateKinds: readonly string[] = ['private', 'carrierGradeNat', 'uniqueLocal', 'loopback', 'linkLocal']

/** Whether an address is of a private network or this machine: a proxy in front, more likely than a client. */
export const isPrivateAddress = (address: string): boolean =>
  isAddress(address) && privateKinds.includes(ipaddr.process(address).range())

/** What limits count an address as: IPv4 itself, IPv6 its /64 network, because a client has all of that. */
export const addressForLimits = (address: string): string =>
  isIP(address) === 6 ? networkOf(address, { v4: 32, v6: 64 }) : address

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
