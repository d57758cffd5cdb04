import { randomBytes } from 'node:crypto'

const traceparent = /^([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$/

/**
 * The trace id of a W3C traceparent header, or undefined when the header is not one (Trace Context §3.2): version 00 ends
 * after the flags, later ones may go on, ff is not a version.
 */
export const traceIdOf = (header: string | null): string | undefined => {
  if (header === null || header.length > 128) return undefined
  const [, version, traceId, more] = traceparent.exec(header) ?? []
  return version === 'ff' || (version === '00' && more !== undefined) ? undefined : traceId
}

const bytesInHex = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'))

/**
 * Makes trace ids: 32 hexadecimal digits, unique over processes by 80 random bits made once, unique within one by a
 * counter. Names a request and protects nothing, so it need not be unguessable; this keeps it out of the profile.
 */
export const createTraceIds = (): (() => string) => {
  const process = randomBytes(10).toString('hex')
  let count = 0
  let prefix = ''
  return () => {
    // All but the last two bytes change once in 65,536 times.
    if ((count & 0xffff) === 0)
      prefix =
        process +
        Math.floor(count / 0x1_0000)
          .toString(16)
          .padStart(8, '0')
    const id = prefix + bytesInHex[(count >> 8) & 0xff] + bytesInHex[count & 0xff]
    count = (count + 1) % 0x1_0000_0000_0000
    return id
  }
}
