import type { TObject, TSchema } from '@sinclair/typebox'
import { catalogue, extensionsOf, type FaultCode, invalidInput, titles } from '../fault.ts'
import { bodyLimits } from './body.ts'
import { inputHook } from './elysia-adapter.ts'
import { createInputReader, type InputOptions } from './input.ts'
import { noContent, t } from './schema-types.ts'
import { cookieNames } from './session-cookies.ts'

export const problem = t.Object({
  type: t.String({ description: 'urn:velro:problem:<code>, or a registered type' }),
  title: t.String(),
  status: t.Integer(),
  detail: t.String(),
  instance: t.String({ description: 'Path of the request' }),
  code: t.String({ description: 'Stable: clients should branch on this member' }),
  request_id: t.String(),
  errors: t.Optional(
    t.Array(t.Object({ in: t.String(), pointer: t.String({ description: 'JSON Pointer' }), detail: t.String() })),
  ),
})

type Input = { params?: TObject; query?: TObject; body?: TSchema }

export const securitySchemes = {
  bearer: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT', description: 'Access token of a person' },
  service_key: { type: 'http', scheme: 'bearer', bearerFormat: 'vsk_…', description: 'Key of a service' },
  cookie: {
    type: 'apiKey',
    in: 'cookie',
    name: cookieNames.access,
    description:
      'Access token of a person who signed in with `cookies`. Not looked at where a request has an Authorization. A request that changes anything must have an Origin that is this service or named in CORS_ORIGINS',
  },
  stream_ticket: {
    type: 'apiKey',
    in: 'query',
    name: 'ticket',
    description: 'The query parameter in the `url` of a stream ticket',
  },
  signed_link: {
    type: 'apiKey',
    in: 'query',
    name: 'signature',
    description: 'The query parameter in the `url` of a signed link',
  },
  share_link: {
    type: 'apiKey',
    in: 'query',
    name: 'share',
    description: 'The query parameter in the `url` of a share link',
  },
} as const

type Upload = { readonly types: readonly string[]; readonly maxBytes: number }

type Documentation = {
  summary: string
  tags: string[]
  /** The route needs no credential. Default: it needs one of `security`. */
  open?: true
  /** The accepted credentials. Default: an access token, also in a cookie. */
  security?: readonly (keyof typeof securitySchemes)[]
  /** Also accepts a service key with this scope, which acts for the user that the request names (`Velro-User`). */
  scope?: string
  /** Whether its method says that it changes something. Default: it does where it takes a body, or answers 201, 204 or a file. */
  changes?: true
  /** The route is how to authenticate again, so it is open to a session that must do so because it is used from elsewhere. */
  isWayOut?: true
  errors?: readonly FaultCode[]
  /** Default: `api`, for an open route `anonymous`. */
  budget?: CountedOn
  /** Its 201 has no `Location`: the new resource has no path. */
  unlocated?: true
  /** Accepts an `Idempotency-Key`; a replayed response has the `Idempotent-Replayed` header. */
  idempotent?: true
  /** Responds with bytes of one of these media types: 200, 206 or 304. */
  bytes?: readonly string[]
  /** Responds with 200 and a file of this media type, whose length is not known before. */
  file?: string
  /** Sends a browser elsewhere (303): where to. */
  redirects?: string
  /** Its body is bytes of one of these media types, up to `maxBytes`. The route reads it itself, after the caller is known. */
  upload?: Upload
  /** Largest JSON body in bytes. Default: 64 KiB. */
  maxBytes?: number
  /** Responds with a stream of these server-sent events. */
  events?: string
  /** The events have no last one, and none is sent again to a client that reconnects. */
  endless?: true
} & Omit<InputOptions, 'maxBytes'>

/** On which budget a request counts. `free`: on none. `anonymous`: on that of the address; the default of an open route. */
export type CountedOn = 'api' | 'generation' | 'media' | 'auth' | 'anonymous' | 'free'

/** The extension member of a route's description that names its budget. */
export const budgetMember = 'x-budget'

/** The header by which a request with a service key names the user for whom the service acts. */
export const actingHeader = 'velro-user'
const scopeMember = 'x-scope'
const wayOutMember = 'x-way-out'
/** Names the routes that require a recent authentication. */
export const recentMember = 'x-recent-authentication'

/** Errors of every route that a person or a service must be known for. */
const credentialErrors: readonly FaultCode[] = [
  'identity.not_signed_in',
  'service_key.expired',
  'service_key.network_refused',
]

const actingParameter = (scope: string) => ({
  in: 'header' as const,
  name: 'Velro-User',
  required: false,
  description: `With a service key, which needs the scope \`${scope}\`: the id of the user for whom the service acts. Required then, and ignored with an access token`,
  schema: { type: 'string' as const, format: 'uuid' },
})

const actingErrors: readonly FaultCode[] = ['service_key.scope_missing', 'service_key.user_not_active']

/** Errors of every route. */
const common: readonly FaultCode[] = [
  'request.malformed',
  'request.host_invalid',
  'request.timeout',
  'request.outcome_unknown',
  'database.unavailable',
  'server.overloaded',
  'server.stopping',
  'server.failed',
]

/** Errors of routes with a JSON body; a route for uploads has other codes instead of the first two. */
const jsonBodyErrors: readonly FaultCode[] = [
  'request.too_large',
  'request.media_type_unsupported',
  'request.encoding_unsupported',
]

const describeText = ({ text, description }: { readonly text: 'one' | 'list'; readonly description: string }) =>
  text === 'one' ? { type: 'string', description } : { type: 'array', description, items: { type: 'string' } }

const describeExtension = (extension: ReturnType<typeof extensionsOf>[string]) =>
  typeof extension === 'string'
    ? { type: 'integer', description: extension }
    : 'text' in extension
      ? describeText(extension)
      : {
          type: 'array',
          description: extension.description,
          items: {
            type: 'object',
            properties: Object.fromEntries(
              Object.entries(extension.members).map(([name, description]) => [name, { type: 'string', description }]),
            ),
            required: Object.keys(extension.members),
          },
        }

/** The codes of one status and their extension members, which are required where the status has one code only. */
const describeCodes = (members: readonly FaultCode[]) => {
  const figures = members
    .flatMap((code) => Object.entries(extensionsOf(code)))
    .map(([name, extension]) => [name, describeExtension(extension)] as const)
  return {
    properties: { code: { enum: members }, ...Object.fromEntries(figures) },
    ...(figures.length > 0 && members.length === 1 && { type: 'object', required: figures.map(([name]) => name) }),
  }
}

const textHeader = (description: string) => ({ description, schema: { type: 'string' as const } })
const limitHeaders = {
  'Retry-After': textHeader('In how many seconds to try again'),
  'RateLimit-Policy': textHeader(
    'The budget, its units (`q`) and the seconds of its window (`w`), as a structured field',
  ),
  RateLimit: textHeader('Units that are left (`r`) for the next seconds (`t`), as a structured field'),
}

const describeFaults = (codes: readonly FaultCode[]) => {
  const byStatus = Map.groupBy(new Set(codes), (code) => catalogue[code].status)
  return Object.fromEntries(
    [...byStatus].map(([status, members]) => [
      status,
      {
        description: `${titles[status]}: ${members.map((code) => `\`${code}\``).join(', ')}`,
        ...(members.some((code) => code === 'limit.exceeded') && { headers: limitHeaders }),
        content: {
          'application/problem+json': {
            schema: { allOf: [{ $ref: '#/components/schemas/problem' }, describeCodes(members)] },
          },
        },
      },
    ]),
  )
}

type DescribedFaults = ReturnType<typeof describeFaults>

/** Adds errors to the described responses of a route. */
export const addFaults = <R extends Record<string, unknown>>(responses: R, codes: readonly FaultCode[]) => {
  const described = responses as Partial<DescribedFaults>
  const known = [...new Set(codes.map((code) => catalogue[code].status))].flatMap((status) =>
    (described[status]?.content['application/problem+json'].schema.allOf ?? []).flatMap((part) =>
      'properties' in part ? part.properties.code.enum : [],
    ),
  )
  return { ...responses, ...describeFaults([...known, ...codes]) }
}

/** A copy as plain JSON Schema, made before Elysia rewrites the schema. */
const plain = (schema: TSchema) => JSON.parse(JSON.stringify(schema))

/** The documented schema of a query parameter: a number, where the validator checks its spelling to refuse `0x10` and ` 5`. */
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
  description: 'For 24 hours a request with the same key and body gets the response of the first one and does nothing',
  schema: { type: 'string', minLength: 1, maxLength: 255, pattern: '^[\\x21-\\x7e]{1,255}$' },
} as const

const idempotencyKey = new RegExp(idempotencyParameter.schema.pattern)

const replayedHeader = {
  'Idempotent-Replayed': { description: '`true` on a replayed response', schema: { type: 'string' } },
} as const

/** The `Idempotency-Key` of a request, if it has one. Throws `request.invalid` for a key that is not as documented. */
export const toIdempotencyKey = ({ headers }: Request): string | undefined => {
  const key = headers.get('idempotency-key') ?? undefined
  if (key !== undefined && !idempotencyKey.test(key)) {
    throw invalidInput('headers', '/idempotency-key', 'must be 1 to 255 visible ASCII characters')
  }
  return key
}

const locationHeader = { Location: textHeader('Path of the new resource') } as const

type Described = {
  description: string
  headers?: Record<string, { description: string; schema: { type: 'string' } }>
  content?: Record<string, { schema: Record<string, unknown> }>
}

const describeSuccess = (schema: TSchema): Described =>
  schema === noContent
    ? { description: 'No content' }
    : { description: 'Success', content: { 'application/json': { schema: plain(schema) } } }

const rangeParameters = ['Range', 'If-Range', 'If-Match', 'If-None-Match'].map((name) => ({
  in: 'header' as const,
  name,
  required: false,
  description: 'As in RFC 9110; only a single byte range is supported',
  schema: { type: 'string' as const },
}))

/** The responses of RFC 9110 with the whole file, a part of it, and none because the client has it. */
const describeBytes = (types: readonly string[]): Record<string, Described> => {
  // OpenAPI 3.1: binary content has an empty schema.
  const content = Object.fromEntries(types.map((type) => [type, { schema: {} }]))
  return {
    200: { description: 'The whole file', content },
    206: { description: 'The requested range', content },
    304: { description: 'The client already has this version (`If-None-Match`)' },
  }
}

/** OpenAPI 3.1: binary content has an empty schema. */
const describeFile = (type: string): Record<string, Described> => ({
  200: { description: 'The file', content: { [type]: { schema: {} } } },
})

const describeRedirect = (description: string): Record<string, Described> => ({
  303: { description, headers: { Location: { description, schema: { type: 'string' } } } },
})

const maxBytesMember = 'x-max-bytes'

/** The limit is an extension member. OpenAPI 3.1: binary content has an empty schema. */
const describeUpload = ({ types, maxBytes }: Upload) => ({
  requestBody: {
    required: true,
    content: Object.fromEntries(types.map((type) => [type, { schema: {} }])),
    [maxBytesMember]: maxBytes,
  },
})

const describeBody = (schema: TSchema, maxBytes: number) => ({
  requestBody: {
    required: true,
    content: { 'application/json': { schema: plain(schema) } },
    [maxBytesMember]: maxBytes,
  },
})

const lastEventParameter = {
  in: 'header',
  name: 'Last-Event-ID',
  required: false,
  description: '`id` of the last received event: only later changes are sent. An unknown id is ignored',
  schema: { type: 'string' },
} as const

/** OpenAPI 3.1 has no schema for the events of a stream. */
const describeEvents = (description: string, endless: boolean): Record<string, Described> => ({
  200: {
    description: 'Server-sent events (WHATWG HTML, 9.2)',
    content: { 'text/event-stream': { schema: { type: 'string', description } } },
  },
  ...(!endless && {
    204: { description: 'The client already has the final event (`Last-Event-ID`) and must not reconnect' },
  }),
})

/** A status may have both a JSON response and errors, such as 503 of `/ready`. */
const describeAnswers = (
  success: Record<number, TSchema>,
  faults: readonly FaultCode[],
  { idempotent, unlocated }: { idempotent: true | undefined; unlocated: true | undefined },
) => {
  const answers: Record<string, Described> = describeFaults(faults)
  for (const [status, schema] of Object.entries(success)) {
    const { content, ...rest } = describeSuccess(schema)
    const headers = { ...(status === '201' && !unlocated && locationHeader), ...(idempotent && replayedHeader) }
    const described = Object.keys(headers).length > 0 ? { ...rest, headers } : rest
    answers[status] = content ? { ...described, content: { ...content, ...answers[status]?.content } } : described
  }
  return answers
}

/**
 * The contract of a route: how its input is read and checked, the schemas of its output, and its entry in the OpenAPI document
 * with every error that it can return.
 */
export const contract = <I extends Input, R extends Record<number, TSchema>>(
  input: I,
  success: R,
  {
    summary,
    tags,
    open,
    security: credentials = ['bearer', 'cookie'],
    scope,
    errors = [],
    idempotent,
    bytes,
    file,
    redirects,
    upload,
    events,
    ...given
  }: Documentation,
) => {
  const { maxBytes = bodyLimits.usual, budget = open ? 'anonymous' : 'api' } = given
  const invalid: FaultCode = given.invalidAs ?? 'request.invalid'
  const { params, query, body } = input
  const changes =
    given.changes ||
    file !== undefined ||
    body !== undefined ||
    upload !== undefined ||
    201 in success ||
    204 in success
  const hasInput = params !== undefined || query !== undefined || body !== undefined
  const security = scope === undefined ? credentials : [...credentials, 'service_key' as const]
  const takesToken = security.includes('bearer')
  const takesCookie = !open && security.includes('cookie')
  const faults: FaultCode[] = [
    ...(open ? [] : credentialErrors),
    ...(open || given.isWayOut || !takesToken ? [] : (['session.reauthentication_required'] as const)),
    ...(open || security.includes('service_key') ? [] : (['access.people_only'] as const)),
    ...(scope === undefined ? [] : [...actingErrors, 'request.invalid' as const]),
    ...(takesCookie && changes ? (['request.origin_refused'] as const) : []),
    ...(hasInput ? [invalid] : []),
    ...(idempotent ? (['request.idempotency_key_reused'] as const) : []),
    ...errors,
    ...(body ? jsonBodyErrors : []),
    ...(upload ? (['request.encoding_unsupported'] as const) : []),
    ...(budget === 'free' ? [] : (['limit.exceeded'] as const)),
    ...common,
  ]
  const hook = {
    parse: 'none' as const,
    ...(hasInput && inputHook(createInputReader(input, given), query !== undefined)),
    response: success,
    detail: {
      summary,
      tags,
      [budgetMember]: budget,
      ...(scope !== undefined && { [scopeMember]: scope }),
      ...(given.isWayOut && { [wayOutMember]: true }),
      ...(!open && errors.includes('session.reauthentication_required') && { [recentMember]: true }),
      security: open ? [] : security.map((scheme) => ({ [scheme]: [] })),
      parameters: [
        ...describeParameters('path', params),
        ...describeParameters('query', query),
        ...(scope === undefined ? [] : [actingParameter(scope)]),
        ...(idempotent ? [idempotencyParameter] : []),
        ...(bytes ? rangeParameters : []),
        ...(events && !given.endless ? [lastEventParameter] : []),
      ],
      ...(body && describeBody(body, maxBytes)),
      ...(upload && describeUpload(upload)),
      responses: {
        ...(bytes && describeBytes(bytes)),
        ...(file && describeFile(file)),
        ...(redirects !== undefined && describeRedirect(redirects)),
        ...(events && describeEvents(events, given.endless === true)),
        ...describeAnswers(success, faults, { idempotent, unlocated: given.unlocated }),
      },
    },
  }
  // Elysia takes the types of handlers from the schemas of a route, but gets no schema: `createInputReader` checks the input.
  return hook as typeof hook & I
}

/** On which budget a route counts, by its description; undefined for one without a contract. */
export const budgetOfRoute = (detail: unknown): CountedOn | undefined =>
  (detail as { [budgetMember]?: CountedOn } | undefined)?.[budgetMember]

/** The scope with which a service may call a route for a user, by its description; undefined where it may not. */
export const scopeOfRoute = (detail: unknown): string | undefined =>
  (detail as { [scopeMember]?: string } | undefined)?.[scopeMember]
/** Whether a route is how to authenticate again, by its description. */
export const isWayOutOfRoute = (detail: unknown): boolean =>
  (detail as { [wayOutMember]?: true } | undefined)?.[wayOutMember] === true

/** Whether a route looks at the cookie of a session, by its description. */
export const takesCookies = (detail: unknown): boolean => {
  const { security } = (detail ?? {}) as { security?: readonly object[] }
  return security?.some((scheme) => 'cookie' in scheme) === true
}

/** The longest body that a route takes, by its description; 0 where it takes none. */
export const maxBytesOf = (detail: unknown): number => {
  const { requestBody } = (detail ?? {}) as { requestBody?: { [maxBytesMember]?: number } }
  return requestBody?.[maxBytesMember] ?? 0
}
