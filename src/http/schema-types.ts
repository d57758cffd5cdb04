import { type Static, type TObject, type TProperties, type TSchema, Type as t } from '@sinclair/typebox'
import { t as elysia } from 'elysia'
import { invalidInput } from '../fault.ts'
import { decodeCursor } from '../kit/cursor.ts'
import { idPattern } from '../kit/id.ts'

/** An object that takes these fields and no others. */
export const closed = <P extends TProperties>(properties: P): TObject<P> =>
  t.Object(properties, { additionalProperties: false })

export const id = (description: string) => t.String({ pattern: idPattern, format: 'uuid', description })

export const timestamp = () => t.String({ format: 'date-time' })

/** Text a person wrote: `min` to `max` UTF-16 units, with at least one that is not white space unless `min` is 0. */
export const text = (min: number, max: number) =>
  t.String({ minLength: min, maxLength: max, ...(min > 0 && { pattern: '\\S' }) })

/** What is too long is told first: what is wrong is looked for by every rule, and this one takes its time over a mebibyte. */
export const email = t.String({
  minLength: 3,
  maxLength: 254,
  pattern:
    '^(?=.{3,254}$)[^\\s@<>"(),:;\\[\\]\\\\\\x00-\\x1f\\x7f]+@[^\\s@.\\x00-\\x1f\\x7f]+(\\.[^\\s@.\\x00-\\x1f\\x7f]+)+$',
  description: 'Compared without regard to case',
})

/** One of a few words. Without Elysia's default, which would fill in the first one where none was given. */
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
  cursor: t.Optional(t.String({ minLength: 1, maxLength: 64, description: '`next_cursor` of the page before' })),
}

/** The place in a list that a query asks for; a cursor that is not ours is a 422. */
export const toPlace = ({ limit: given = '20', cursor }: { limit?: string; cursor?: string }) => {
  const limit = Number(given)
  if (cursor === undefined) return { limit, after: null }
  const after = decodeCursor(cursor)
  if (after === undefined) throw invalidInput('query', '/cursor', 'Not a cursor of this service')
  return { limit, after }
}

export const pageOf = <T extends TSchema>(item: T) =>
  closed({ items: t.Array(item), next_cursor: t.Union([t.String(), t.Null()]) })

/** The schema of an answer without a body. */
export const noContent = t.Undefined()

export type { Static }
export { t }
