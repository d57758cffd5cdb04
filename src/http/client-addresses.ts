import { addressForLimits, clientAddress, isPrivateAddress, toTrustedProxies } from '../kit/client-address.ts'
import type { Log } from '../platform/log.ts'

/**
 * The addresses of clients, by TRUSTED_PROXIES.
 *
 * A peer with a private address that sends X-Forwarded-For and is not trusted is most likely a proxy that the configuration
 * forgot: all clients would count as one. So its requests are not limited by address, only by account; the log says so once,
 * and `/ready` from then on.
 */
export type ClientAddresses = {
  of(request: Request): string
  /** What limits count the client as; undefined: not limited by address. */
  forLimits(request: Request): string | undefined
  /** Whether a request came from such a peer. */
  readonly hasUntrustedProxy: boolean
}

const forwarded = 'x-forwarded-for'
const maxPeers = 10_000

export const createClientAddresses = ({
  trustedProxies,
  peerOf,
  log,
}: {
  trustedProxies: readonly string[]
  peerOf: (request: Request) => string
  log: Log
}): ClientAddresses => {
  const trusted = toTrustedProxies(trustedProxies)
  let hasUntrustedProxy = false
  /** The canonical address of each peer: finding it costs as much as the rest of a comparison with a session. */
  const canonical = new Map<string, string>()
  const canonicalPeer = (peer: string): string => {
    const known = canonical.get(peer)
    if (known !== undefined) return known
    if (canonical.size >= maxPeers) canonical.clear()
    const address = clientAddress(peer, null, trusted)
    canonical.set(peer, address)
    return address
  }

  const noticeUntrusted = (peer: string) => {
    if (hasUntrustedProxy) return
    hasUntrustedProxy = true
    log.warn(
      { event: 'proxy.untrusted', peer },
      'a private address sends X-Forwarded-For and is not in TRUSTED_PROXIES: its requests are not limited by address',
    )
  }

  return {
    of: (request) => {
      const header = request.headers.get(forwarded)
      return header === null ? canonicalPeer(peerOf(request)) : clientAddress(peerOf(request), header, trusted)
    },
    forLimits: (request) => {
      const header = request.headers.get(forwarded)
      const address = clientAddress(peerOf(request), header, trusted)
      const isForwarded = header !== null && !('hops' in trusted) && !trusted.isTrusted(address)
      // Behind a trusted proxy the result is another address than the peer's.
      if (isForwarded && isPrivateAddress(address) && clientAddress(peerOf(request), null, trusted) === address) {
        noticeUntrusted(address)
        return undefined
      }
      return addressForLimits(address)
    },
    get hasUntrustedProxy() {
      return hasUntrustedProxy
    },
  }
}
