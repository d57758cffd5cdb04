import { isIP } from 'node:net'
import { networkOf } from './client-address.ts'

export type NetworkSet = {
  /** `address`: in its canonical text; see `canonicalAddress`. */
  has(address: string): boolean
}

/** The length of the prefix, and the family, of a network in CIDR notation. */
const shapeOf = (network: string) => {
  const slash = network.lastIndexOf('/')
  return { family: isIP(network.slice(0, slash)), length: Number(network.slice(slash + 1)) }
}

/**
 * A set of networks in canonical CIDR notation. Looking an address up costs a look-up for each length of prefix that occurs in its
 * family, however many networks there are.
 */
export const createNetworkSet = (networks: readonly string[]): NetworkSet => {
  const known = new Set(networks)
  const lengths: Record<number, Set<number>> = { 4: new Set(), 6: new Set() }
  for (const network of networks) {
    const { family, length } = shapeOf(network)
    lengths[family]?.add(length)
  }
  return {
    has: (address) => {
      for (const length of lengths[isIP(address)] ?? []) {
        if (known.has(networkOf(address, { v4: length, v6: length }))) return true
      }
      return false
    },
  }
}
