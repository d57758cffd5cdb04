import type { Static, TObject, TProperties, TSchema } from '@sinclair/typebox'
import { t } from 'elysia'
import { catalogue, Fault, type FaultCode, titles } from './fault.ts'
import { decodeCursor } from './kit/cursor.ts'
import { idPattern } from './kit/id.ts'

/** An object that takes these fields and no others. */
export const closed = <P extends TProperties>(properties: P): TObject<P> =>
  t.Object(properties, { additionalProperties: false })

export const id = (description: string) => t.String({ pattern: idPattern, format: 'uuid', description })

export const timestamp = () => t.String({ format: 'date-time' })

/** Text a person wrote: `min` to `max` UTF-16 units, with at least one that is not white space unless `min` is 0. */
export const text = (min: number, max: number) =>
  t.String({ minLength: min, maxLength: max, ...(min > 0 && { pattern: '\\S' }) })

/** One of a few words. Without Elysia's default, which would fill in the first one where none was given. */
export const oneOf = <const T extends readonly [string, ...string[]]>(values: T) => {
  const { default: _, ...schema } = t.UnionEnum(values)
  return schema as ReturnType<typeof t.UnionEnum<T>>
}

export const pageQuery = {
  limit: t.Optional(t.Integer({ minimum: 1, maximum: 100, default: 20 })),
  cursor: t.Optional(t.String({ minLength: 1, maxLength: 64, description: '`next_cursor` of the page before' })),
}

/** The place in a list that a query asks for; a cursor that is not ours is a 422. */
export const toPlace = ({ limit = 20, cursor }: { limit?: number; cursor?: string }) => {
  if (cursor === undefined) return { limit, after: null }
  const after = decodeCursor(cursor)
  if (after === undefined) {
    throw new Fault('request.invalid', {
      problems: [{ in: 'query', pointer: '/cursor', detail: 'Not a cursor of this service' }],
    })
  }
  return { limit, after }
}

export const pageOf = <T extends TSchema>(item: T) =>
  closed({ items: t.Array(item), next_cursor: t.Union([t.String(), t.Null()]) })

export const problem = t.Object({
  type: t.String({ description: 'urn:velro:problem:<code>' }),
  title: t.String(),
  status: t.Integer(),
  detail: t.String(),
  instance: t.String({ description: 'Path of the request' }),
  code: t.String({ description: 'Stable; decide on this one' }),
  request_id: t.String(),
  errors: t.Optional(
    t.Array(t.Object({ in: t.String(), pointer: t.String({ description: 'JSON Pointer' }), detail: t.String() })),
  ),
})

type Documentation = {
  summary: string
  tags: string[]
  /** Default: signed in. */
  open?: true
  faults?: readonly FaultCode[]
}

/** What any route may say besides its own. */
const common: readonly FaultCode[] = ['request.timeout', 'database.unavailable', 'server.stopping', 'server.failed']
const withInput: readonly FaultCode[] = [
  'request.malformed',
  'request.invalid',
  'request.too_large',
  'request.media_type_unsupported',
]

const describeFaults = (codes: readonly FaultCode[]) => {
  const byStatus = Map.groupBy(new Set(codes), (code) => catalogue[code].status)
  return Object.fromEntries(
    [...byStatus].map(([status, members]) => [
      status,
      {
        description: `${titles[status]}: ${members.map((code) => `\`${code}\``).join(', ')}`,
        content: {
          'application/problem+json': {
            schema: { allOf: [{ $ref: '#/components/schemas/problem' }, { properties: { code: { enum: members } } }] },
          },
        },
      },
    ]),
  )
}

/**
 * The answers of a route, as the check on what leaves it and as its entry in the OpenAPI document: a schema for each
 * status of success (null: no body), and every fault it can give.
 */
export const answers = <R extends Record<number, TSchema>>(
  success: R,
  { summary, tags, open, faults = [] }: Documentation,
) => {
  const codes = [...(open ? [] : (['identity.not_signed_in'] as const)), ...withInput, ...faults, ...common]
  return {
    response: success,
    detail: {
      summary,
      tags,
      security: open ? [] : [{ bearer: [] }],
      responses: {
        ...Object.fromEntries(
          Object.entries(success).map(([status, schema]) => [
            status,
            schema === nothing
              ? { description: 'Done' }
              : {
                  description: 'Success',
                  content: { 'application/json': { schema: JSON.parse(JSON.stringify(schema)) } },
                },
          ]),
        ),
        ...describeFaults(codes),
      },
    },
  }
}

/** The schema of an answer without a body. */
export const nothing = t.Undefined()

export type { Static }
export { t }
