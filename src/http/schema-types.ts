import { FormatRegistry, type Static, type TObject, type TProperties, type TSchema, Type as t } from '@sinclair/typebox'
import { t as elysia } from 'elysia'
import { invalidInput } from '../fault.ts'
import { decodeCursor } from '../kit/cursor.ts'
import { isDateTime } from '../kit/date-time.ts'
import { maxEmailLength } from '../kit/email.ts'
import { idPattern } from '../kit/id.ts'
import { namePattern } from '../kit/plain-text.ts'

// In place of Elysia's, which takes 30 February, a day without a time, and a space for the T.
FormatRegistry.Set('date-time', isDateTime)
// In place of Elysia's, which also takes upper case: the pattern of an id says all, and is tried too.
FormatRegistry.Set('uuid', () => true)

/** An object with these fields and no others. */
export const closed = <P extends TProperties>(properties: P): TObject<P> =>
  t.Object(properties, { additionalProperties: false })

export const id = (description: string) => t.String({ pattern: idPattern, format: 'uuid', description })

export const timestamp = () => t.String({ format: 'date-time' })

export const notBlankPattern = '\\S'

/** Text that a person wrote: `min` to `max` UTF-16 units, not only white space unless `min` is 0. */
export const text = (min: number, max: number) =>
  t.String({ minLength: min, maxLength: max, ...(min > 0 && { pattern: notBlankPattern }) })

/** A name that others see, also in mails: as `text`, on one line and without characters that reorder text. */
export const nameText = (max: number) => t.String({ minLength: 1, maxLength: max, pattern: namePattern })

/** Repeats the limit of the length: the validator tries every keyword, and this pattern alone would be slow on 1 MiB. */
export const emailPattern =
  `^(?=.{3,${maxEmailLength}}$)` +
  '[^\\s@<>"(),:;\\[\\]\\\\\\x00-\\x1f\\x7f]+@[^\\s@.\\x00-\\x1f\\x7f]+(\\.[^\\s@.\\x00-\\x1f\\x7f]+)+$'

export const email = t.String({
  minLength: 3,
  maxLength: maxEmailLength,
  pattern: emailPattern,
  description: 'Compared without regard to case',
})

/** An opaque token of 32 bytes in base64url. */
export const secretPattern = '^[A-Za-z0-9_-]{43}$'

/** The name of a feature flag. */
export const flagNamePattern = '^[a-z0-9][a-z0-9-]{0,63}$'

/** What an incident is about: an id, an address, a network or the name of a dependency. */
export const subjectIdPattern = '^[\\x21-\\x7e]{1,200}$'

export const modelIdPattern = '^[A-Za-z0-9][A-Za-z0-9._/-]*$'

/** The parameters of a list: `limit` is checked by its spelling, because a number would also accept `0x10` and ` 5`. */

/** One of a few words. Elysia's default is removed: it would fill in the first word where none was given. */
export const oneOf = <const T extends readonly [string, ...string[]]>(values: T) => {
  const { default: _, ...schema } = elysia.UnionEnum(values)
  return schema as ReturnType<typeof elysia.UnionEnum<T>>
}

export const pageQuery = {
  limit: t.Optional(
    t.String({
      pattern: '^([1-9][0-9]?|100)$',
      documented: { type: 'integer', minimum: 1, maximum: 100, default: 20 },
    }),
  ),
  cursor: t.Optional(t.String({ minLength: 1, maxLength: 64, description: '`next_cursor` of the previous page' })),
}

/** The place in a list that a query names. Throws `request.invalid` for a cursor that this service did not issue. */
export const toPlace = ({ limit: given = '20', cursor }: { limit?: string; cursor?: string }) => {
  const limit = Number(given)
  if (cursor === undefined) return { limit, after: null }
  const after = decodeCursor(cursor)
  if (after === undefined) throw invalidInput('query', '/cursor', 'must be the `next_cursor` of the previous page')
  return { limit, after }
}

export const pageOf = <T extends TSchema>(item: T) =>
  closed({ items: t.Array(item), next_cursor: t.Union([t.String(), t.Null()]) })

/** The schema of a response without a body. */
export const noContent = t.Undefined()

export type { Static }
export { t }
