/**
 * The address a request really comes from: the socket's peer, unless that peer is a proxy we trust; then the last
 * address of `X-Forwarded-For` that no trusted proxy added. What a stranger writes into the header is never believed.
 */
export const clientAddress = (peer: string, forwardedFor: string | null, trusted: ReadonlySet<string>): string => {
  const direct = plain(peer)
  if (forwardedFor === null || !trusted.has(direct)) return direct
  const hops = forwardedFor.split(',').map((hop) => plain(hop.trim()))
  return hops.findLast((hop) => !trusted.has(hop) && isAddress(hop)) ?? direct
}

/** IPv4 peers of a dual-stack socket come as `::ffff:192.0.2.1`. */
const plain = (address: string) => (address.startsWith('::ffff:') ? address.slice(7) : address).toLowerCase()

const isAddress = (text: string) => text.length <= 45 && /^[0-9a-f:.]{2,}$/.test(text)
