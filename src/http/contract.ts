import type { TObject, TSchema } from '@sinclair/typebox'
import { catalogue, extensionsOf, type FaultCode, invalidInput, titles } from '../fault.ts'
import { noContent, t } from './schema-types.ts'

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

type Input = { params?: TObject; query?: TObject; body?: TSchema }

export const securitySchemes = {
  bearer: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT', description: 'Access token of a person' },
  service_key: { type: 'http', scheme: 'bearer', bearerFormat: 'vsk_…', description: 'Key of a service' },
  signed_link: { type: 'apiKey', in: 'query', name: 'signature', description: 'As in the `url` of a signed link' },
  share_link: { type: 'apiKey', in: 'query', name: 'share', description: 'As in the `url` of a share link' },
} as const

type Upload = { readonly types: readonly string[]; readonly maxBytes: number }

type Documentation = {
  summary: string
  tags: string[]
  /** Default: signed in. */
  open?: true
  /** Who gets in by what; default: people, by an access token. */
  security?: readonly (keyof typeof securitySchemes)[]
  errors?: readonly FaultCode[]
  /** It takes an `Idempotency-Key`, and says so on an answer given again. */
  idempotent?: true
  /** It gives bytes, of one of these types: whole, in part, or none where the client has them. */
  bytes?: readonly string[]
  /** Its body is bytes of one of these types, up to so many, and read by the route itself once it is known who calls. */
  upload?: Upload
  /** It goes on, with these server-sent events. */
  events?: string
  /** What it does not say, though any other route may. */
  omitFaults?: readonly FaultCode[]
}

/** What any route may say besides its own. A body is read, and so may be refused, even where none is needed. */
const common: readonly FaultCode[] = [
  'request.malformed',
  'request.too_large',
  'request.media_type_unsupported',
  'request.timeout',
  'database.unavailable',
  'server.stopping',
  'server.failed',
]

/** What is said of JSON bodies; a route that takes other bytes has words of its own for them. */
const ofJson: readonly FaultCode[] = ['request.too_large', 'request.media_type_unsupported']

/** A code by which the caller decides, and the figures that come with it; where others share the status, perhaps. */
const describeCodes = (members: readonly FaultCode[]) => {
  const figures = members
    .flatMap((code) => Object.entries(extensionsOf(code)))
    .map(([name, description]) => [name, { type: 'integer', description }] as const)
  return {
    properties: { code: { enum: members }, ...Object.fromEntries(figures) },
    ...(figures.length > 0 && members.length === 1 && { type: 'object', required: figures.map(([name]) => name) }),
  }
}

const describeFaults = (codes: readonly FaultCode[]) => {
  const byStatus = Map.groupBy(new Set(codes), (code) => catalogue[code].status)
  return Object.fromEntries(
    [...byStatus].map(([status, members]) => [
      status,
      {
        description: `${titles[status]}: ${members.map((code) => `\`${code}\``).join(', ')}`,
        content: {
          'application/problem+json': {
            schema: { allOf: [{ $ref: '#/components/schemas/problem' }, describeCodes(members)] },
          },
        },
      },
    ]),
  )
}

/** A copy as plain JSON Schema, taken before Elysia rewrites the schema for its own use. */
const plain = (schema: TSchema) => JSON.parse(JSON.stringify(schema))

/** A number in a query is taken by its spelling, so that "0x10" and " 5" are none; a client sees a number. */
const onTheWire = (schema: TSchema): TSchema => schema['documented'] ?? schema

const describeParameters = (place: 'path' | 'query', schema: TObject | undefined) =>
  Object.entries(schema?.properties ?? {}).map(([name, { description, ...rest }]) => ({
    in: place,
    name,
    required: schema?.required?.includes(name) ?? false,
    ...(description !== undefined && { description }),
    schema: plain(onTheWire(rest as TSchema)),
  }))

const idempotencyParameter = {
  in: 'header',
  name: 'Idempotency-Key',
  required: false,
  description: 'For a day, the same key with the same body gets the answer of the first, and nothing is done again',
  schema: { type: 'string', minLength: 1, maxLength: 255, pattern: '^[\\x21-\\x7e]{1,255}$' },
} as const

const idempotencyKey = new RegExp(idempotencyParameter.schema.pattern)

const replayedHeader = {
  'Idempotent-Replayed': { description: '`true` on an answer that was given before', schema: { type: 'string' } },
} as const

/** The `Idempotency-Key` of a request, where it has one; another spelling than the documented one is a 422. */
export const toIdempotencyKey = ({ headers }: Request): string | undefined => {
  const key = headers.get('idempotency-key') ?? undefined
  if (key !== undefined && !idempotencyKey.test(key)) {
    throw invalidInput('headers', '/idempotency-key', 'must be 1 to 255 visible ASCII characters')
  }
  return key
}

type Described = {
  description: string
  headers?: typeof replayedHeader
  content?: Record<string, { schema: Record<string, unknown> }>
}

const describeSuccess = (schema: TSchema): Described =>
  schema === noContent
    ? { description: 'Done' }
    : { description: 'Success', content: { 'application/json': { schema: plain(schema) } } }

const rangeParameters = ['Range', 'If-Range', 'If-None-Match'].map((name) => ({
  in: 'header' as const,
  name,
  required: false,
  description: 'RFC 9110; of ranges, one of bytes',
  schema: { type: 'string' as const },
}))

/** By RFC 9110: the whole, a part of it, and nothing because the client has it. */
const describeBytes = (types: readonly string[]): Record<string, Described> => {
  // As OpenAPI 3.1 has it: bytes have no schema.
  const content = Object.fromEntries(types.map((type) => [type, { schema: {} }]))
  return {
    200: { description: 'All of it', content },
    206: { description: 'The part that `Range` asks for', content },
    304: { description: 'The client has it, as `If-None-Match` says' },
  }
}

/** As OpenAPI 3.1 has it: bytes have no schema. The limit is an extension, and what the application goes by. */
const describeUpload = ({ types, maxBytes }: Upload) => ({
  requestBody: {
    required: true,
    content: Object.fromEntries(types.map((type) => [type, { schema: {} }])),
    [maxBytesMember]: maxBytes,
  },
})
const maxBytesMember = 'x-max-bytes'

/** Whether the details of a route say that it reads its body itself. */
export const takesUpload = (detail: unknown): boolean => {
  const { requestBody } = (detail ?? {}) as { requestBody?: object }
  return requestBody !== undefined && maxBytesMember in requestBody
}

const lastEventParameter = {
  in: 'header',
  name: 'Last-Event-ID',
  required: false,
  description: '`id` of the last event that came: only what is news since is sent; one that is not ours is passed over',
  schema: { type: 'string' },
} as const

/** Of a stream that goes on; OpenAPI 3.1 has no schema for its parts. */
const describeEvents = (description: string): Record<string, Described> => ({
  200: {
    description: 'Server-sent events (WHATWG HTML, 9.2)',
    content: { 'text/event-stream': { schema: { type: 'string', description } } },
  },
  204: { description: 'The client has it all, as `Last-Event-ID` says: it is not to come again' },
})

/** A status may be both, as 503 is for a route that says why it is not ready. */
const describeAnswers = (success: Record<number, TSchema>, faults: readonly FaultCode[], idempotent = false) => {
  const answers: Record<string, Described> = describeFaults(faults)
  for (const [status, schema] of Object.entries(success)) {
    const { content, ...rest } = describeSuccess(schema)
    const described = idempotent ? { ...rest, headers: replayedHeader } : rest
    answers[status] = content ? { ...described, content: { ...content, ...answers[status]?.content } } : described
  }
  return answers
}

/**
 * What a route takes and gives: the check on what comes in and goes out, and its entry in the OpenAPI document with
 * every fault it can answer.
 */
export const contract = <I extends Input, R extends Record<number, TSchema>>(
  input: I,
  success: R,
  {
    summary,
    tags,
    open,
    security = ['bearer'],
    errors = [],
    idempotent,
    bytes,
    upload,
    events,
    omitFaults = [],
  }: Documentation,
) => ({
  ...input,
  parse: upload ? ('none' as const) : ('json' as const),
  response: success,
  detail: {
    summary,
    tags,
    security: open ? [] : security.map((scheme) => ({ [scheme]: [] })),
    parameters: [
      ...describeParameters('path', input.params),
      ...describeParameters('query', input.query),
      ...(idempotent ? [idempotencyParameter] : []),
      ...(bytes ? rangeParameters : []),
      ...(events ? [lastEventParameter] : []),
    ],
    ...(upload && describeUpload(upload)),
    responses: {
      ...(bytes && describeBytes(bytes)),
      ...(events && describeEvents(events)),
      ...describeAnswers(
        success,
        [
          ...(open ? [] : (['identity.not_signed_in'] as const)),
          ...(input.params || input.query || input.body ? (['request.invalid'] as const) : []),
          ...(idempotent ? (['request.idempotency_key_reused'] as const) : []),
          ...errors,
          ...common.filter((code) => !omitFaults.includes(code) && !(upload && ofJson.includes(code))),
        ],
        idempotent,
      ),
    },
  },
})
