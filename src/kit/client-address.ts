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

/** Lower case, without a port, and IPv4 as such: a dual-stack socket gives `::ffff:192.0.2.1` for it. */
export const canonicalAddress = (text: string): string => {
  const lower = text.trim().toLowerCase()
  const bare = /^\[([^\]]*)\](?::\d+)?$/.exec(lower)?.[1] ?? /^(\d+\.\d+\.\d+\.\d+):\d+$/.exec(lower)?.[1] ?? lower
  return bare.startsWith('::ffff:') && bare.includes('.') ? bare.slice(7) : bare
}

const isAddress = (text: string) => /^(?:\d{1,3}\.){3}\d{1,3}$/.test(text) || /^(?=.*:)[0-9a-f:.]{2,45}$/.test(text)
