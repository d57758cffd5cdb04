import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'

/** IANA's global unicast space. Nothing outside it is reachable over the internet. */
const globalUnicast = ipaddr.IPv6.parseCIDR('2000::/3')

/**
 * Whether an address belongs to the public internet, by IANA's registries of special-purpose addresses. False for every
 * IPv6 address that embeds an IPv4 address (mapped, NAT64, 6to4, Teredo), because a gateway could route it to a private
 * network; false for text that is not a plain address, and with a zone id.
 */
export const isPublicAddress = (address: string): boolean => {
  const family = isIP(address)
  if (family === 4) return ipaddr.IPv4.parse(address).range() === 'unicast'
  if (family !== 6 || address.includes('%')) return false
  const parsed = ipaddr.IPv6.parse(address)
  return parsed.range() === 'unicast' && parsed.match(globalUnicast)
}
