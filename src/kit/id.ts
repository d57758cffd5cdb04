import { Buffer } from 'node:buffer'
import { v7 } from 'uuid'

/** The one spelling of an id on the wire: a UUID in lower case. Anything else is refused, so that ids compare as text. */
export const idPattern = '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'

const idExpression = new RegExp(idPattern)

export const isId = (value: unknown): value is string => typeof value === 'string' && idExpression.test(value)

/** A new id: UUID version 7 (RFC 9562), so that rows made later sort later. */
export const newId = (): string => v7()

export const idLength = 16

/** An id as its 16 bytes. */
export const idToBytes = (id: string): Uint8Array => Buffer.from(id.replaceAll('-', ''), 'hex')

/** The id of 16 bytes. */
export const idFromBytes = (bytes: Uint8Array): string => {
  const hex = Buffer.from(bytes).toString('hex')
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-')
}
