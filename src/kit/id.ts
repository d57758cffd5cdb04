import { v7 } from 'uuid'

/** The one spelling of an id on the wire: a UUID in lower case. Anything else is refused, so that ids compare as text. */
export const idPattern = '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'

const idExpression = new RegExp(idPattern)

export const isId = (value: unknown): value is string => typeof value === 'string' && idExpression.test(value)

/** A new id: UUID version 7 (RFC 9562), so that rows made later sort later. */
export const newId = (): string => v7()
