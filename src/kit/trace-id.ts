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

/**
 * Makes trace ids: 32 hexadecimal digits, unique over processes by 80 random bits made once, unique within one by a
 * counter. Names a request and protects nothing, so it need not be unguessable; this keeps it out of the profile.
 */
export const createTraceIds = (): (() => string) => {
  const prefix = randomBytes(10).toString('hex')
  let count = 0
  return () => {
    count = (count + 1) % 0x1_0000_0000_0000
    return prefix + count.toString(16).padStart(12, '0')
  }
}
