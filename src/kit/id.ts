import { Buffer } from 'node:buffer'
import { v7 } from 'uuid'

/** Ids on the wire are UUIDs in lower case. Other spellings are rejected, so ids can be compared as text. */
export const idPattern = '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'

const idExpression = new RegExp(idPattern)

export const isId = (value: unknown): value is string => typeof value === 'string' && idExpression.test(value)

/** A UUID version 7 (RFC 9562): later ids sort after earlier ones. */
export const newId = (): string => v7()

export const idLength = 16

/** The 16 bytes of an id. */
export const idToBytes = (id: string): Uint8Array => Buffer.from(id.replaceAll('-', ''), 'hex')

/** The id with these 16 bytes. */
export const idFromBytes = (bytes: Uint8Array): string => {
  const hex = Buffer.from(bytes).toString('hex')
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-')
}
