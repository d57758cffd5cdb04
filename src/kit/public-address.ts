import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'

/** What IANA gives out as global unicast. Outside of it is nothing that could be reached over the internet. */
const globalUnicast = ipaddr.IPv6.parseCIDR('2000::/3')

/**
 * Whether an address is one of the public internet, by IANA's registries of special-purpose addresses. What carries an
 * IPv4 address inside (mapped, NAT64, 6to4, Teredo) is not, whichever it carries: a gateway could lead anywhere with it.
 * Nor is what is not an address in its usual spelling, or names an interface.
 */
export const isPublicAddress = (address: string): boolean => {
  const family = isIP(address)
  if (family === 4) return ipaddr.IPv4.parse(address).range() === 'unicast'
  if (family !== 6 || address.includes('%')) return false
  const parsed = ipaddr.IPv6.parse(address)
  return parsed.range() === 'unicast' && parsed.match(globalUnicast)
}
