import { randomBytes } from 'node:crypto'

const traceparent = /^([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$/

/**
 * The trace id of a W3C `traceparent` header (Trace Context §3.2); undefined when the header is absent or malformed. Version
 * 00 ends after the flags, later versions may have more fields, ff is invalid.
 */
export const traceIdOf = (header: string | null): string | undefined => {
  if (header === null || header.length > 128) return undefined
  const [, version, traceId, furtherFields] = traceparent.exec(header) ?? []
  return version === 'ff' || (version === '00' && furtherFields !== undefined) ? undefined : traceId
}

const bytesInHex = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'))

/**
 * A generator of trace ids: 80 random bits drawn once (unique across processes) and a 48-bit counter (unique within one), as
 * 32 hexadecimal digits. Cheap because an id is guessable; it identifies a request and protects nothing.
 */
export const createTraceIds = (): (() => string) => {
  const processPart = randomBytes(10).toString('hex')
  let count = 0
  let prefix = ''
  return () => {
    // The prefix changes once in 65,536 ids; only the last two bytes are formatted for each.
    if ((count & 0xffff) === 0)
      prefix =
        processPart +
        Math.floor(count / 0x1_0000)
          .toString(16)
          .padStart(8, '0')
    const id = prefix + bytesInHex[(count >> 8) & 0xff] + bytesInHex[count & 0xff]
    count = (count + 1) % 0x1_0000_0000_0000
    return id
  }
}
