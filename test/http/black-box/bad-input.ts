import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { catalogue } from '../../../src/fault.ts'
import { until } from '../../faults/support.ts'
import type { Person } from '../../harness.ts'
import {
  type Document,
  fill,
  isAuthzen,
  isUpload,
  nameOf,
  neededQuery,
  ownParameters,
  type Parameter,
  pathOf,
  type Route,
  resolve,
  routesOf,
  type Schema,
  sampleBodyOf,
  sampleOf,
  unknownId,
} from './document.ts'
import { isOfProviders } from './documentation.ts'
import type { Group, World } from './driver.ts'
import { headOf, sendRaw } from './wire.ts'

type Case = {
  name: string
  body?: string | Uint8Array
  contentType?: string
  path?: string
  /** Default: any of 400, 404, 413, 415, 422. */
  expected?: string
  /** Wrong only where unknown members are refused. */
  unnamed?: true
  /** Wrong only where the text is stored. */
  unstorable?: true
  /** Replaces the unknown id in the path. */
  ids?: string
}

const malformed = '400 request.malformed'
const invalid = '422 request.invalid'
const tooLarge = '413 request.too_large'
const unsupported = '415 request.media_type_unsupported'

/** The routes that take many questions accept 1 MiB, those that sign people in 8 KiB. */
const maxBytesOf = ({ operation }: Pick<Route, 'operation'>): number => operation.requestBody?.['x-max-bytes'] ?? 0
const json = 'application/json'

type Place = { at: readonly (string | number)[]; schema: Schema; required: boolean }

/** Every place in a body that has its own schema. */
const placesIn = (document: Document, given: Schema, at: Place['at'] = [], required = true): Place[] => {
  const schema = resolve(document, given)
  const members = Object.entries(schema.properties ?? {}).flatMap(([name, member]) =>
    placesIn(document, member, [...at, name], schema.required?.includes(name) ?? false),
  )
  const items = schema.items === undefined ? [] : placesIn(document, schema.items, [...at, 0])
  return [{ at, schema, required }, ...members, ...items]
}

const missing = Symbol('missing')

/** A copy of `value` with another value at one place. */
const withAt = (value: unknown, at: Place['at'], replacement: unknown): unknown => {
  const [first, ...rest] = at
  if (first === undefined) return replacement
  if (Array.isArray(value))
    return value.map((item, index) => (index === first ? withAt(item, rest, replacement) : item))
  const copy: Record<string, unknown> = { ...(value as Record<string, unknown>) }
  if (rest.length === 0 && replacement === missing) delete copy[first]
  else copy[first as string] = withAt(copy[first as string], rest, replacement)
  return copy
}

const valuesByType: Record<string, unknown> = {
  string: 'text that no enumeration has',
  number: 1.5,
  integer: 7,
  boolean: true,
  null: null,
  array: ['x'],
  object: { x: 'y' },
}

/** A schema with the keywords of its alternatives, of which at most one has any but its type. */
const merged = ({ anyOf, ...own }: Schema): Schema => Object.assign({}, ...(anyOf ?? []), own)

const inOtherCase = (word: string) => (word === word.toUpperCase() ? word.toLowerCase() : word.toUpperCase())

/** Values that do not fit one place, by name. */
const wrongValues = (schema: Schema): Record<string, unknown> => {
  const types = schema.enum === undefined ? (schema.anyOf ?? [schema]).map(({ type }) => type) : []
  const wrong = Object.entries(valuesByType).filter(
    ([type]) => !types.includes(type as never) && !(types.includes('number') && type === 'integer'),
  )
  const { minLength = 0, maxLength, minItems = 0, maxItems, pattern, format, minimum, maximum } = merged(schema)
  return {
    ...Object.fromEntries(wrong),
    ...(minLength > 0 && { empty: '', 'white space': ' '.repeat(minLength - 1) || '' }),
    ...(maxLength !== undefined && { 'over-long': 'a'.repeat(maxLength + 1), 'far too long': 'a'.repeat(200_000) }),
    ...(minItems > 0 && { 'no items': [] }),
    ...(maxItems !== undefined && { 'too many items': Array(maxItems + 1).fill(null) }),
    ...(schema.uniqueItems && { 'an item twice': Array(2).fill(schema.items?.enum?.[0]) }),
    ...(minimum !== undefined && { 'too small': minimum - 1 }),
    ...(maximum !== undefined && { 'too great': maximum + 1, 'far too great': 1e300 }),
    ...((types.includes('integer') || types.includes('number')) && {
      'a number as text': '7',
      'a space': ' ',
      'an empty text': '',
      'a number as text in a list': ['7'],
    }),
    ...(types.includes('boolean') && { 'true as text': 'true', one: 1 }),
    ...(format === 'date-time' && {
      'a day': '2999-01-01',
      'a day of this century': '2039-01-01',
      '30 February': '2999-02-30T00:00:00Z',
      'a space for the T': '2999-01-01 00:00:00Z',
      'small letters': '2999-01-01t00:00:00z',
      'a zone without its sign': '2999-01-01T00:00:00 01:00',
      'a day and time as people write it': 'Sat Jan 01 2999 00:00:00 GMT+0000 (UTC)',
      'a number': 32_472_144_000_000,
      'without a zone': '2999-01-01T00:00:00',
      'no such month': '2999-13-01T00:00:00Z',
      'no such hour': '2999-01-01T25:00:00Z',
      'a number in it': '32472144000000',
    }),
    ...(format === 'uuid' && {
      'upper case': 'ABCDEF00-0000-7000-8000-000000000000',
      'with a space': ` ${unknownId}`,
      'with a line feed': `${unknownId}\n`,
      'in braces': `{${unknownId}}`,
      'without hyphens': unknownId.replaceAll('-', ''),
      'other digits': unknownId.replace('0', '\u0660'),
    }),
    ...(pattern?.includes('@') && {
      'no host': 'ada@',
      'no dot': 'ada@localhost',
      'two at signs': 'a@b@example.com',
      'a line feed': 'ada@example.com\nbcc:x@example.com',
      'a display name': 'Ada <ada@example.com>',
    }),
    ...(schema.enum !== undefined && { 'other case': inOtherCase(String(schema.enum[0])), number: 0 }),
  }
}

/** A JSON text with an escape where the marker is. */
const marker = '\u2063'
const withEscape = (body: unknown, sequence: string) => JSON.stringify(body).replace(marker, sequence)

const casesForBody = (document: Document, schema: Schema): Case[] => {
  const sample = sampleOf(document, schema)
  const text = JSON.stringify(sample)
  const root = resolve(document, schema)
  const broken: Case[] = Object.entries({
    'an open brace': '{',
    'cut short': text.slice(0, -1),
    'with a comma too many': `${text.slice(0, -1)},}`,
    'with single quotes': text.replaceAll('"', "'"),
    'with a comment': `/* */${text}`,
    twice: text + text,
    'half a literal': 'nul',
    'not a number': 'NaN',
    'spaces only': '   ',
    empty: '',
    'deeply nested and open': '['.repeat(8_000),
    'with a raw control character': text.replace('"', '"\u0001'),
  }).map(([name, body]) => ({ name: `JSON: ${name}`, body, expected: malformed }))
  const bytes: Case[] = Object.entries({
    'a lone continuation byte': [0x22, 0x80, 0x22],
    'an overlong NUL': [0x22, 0xc0, 0x80, 0x22],
    'a surrogate': [0x22, 0xed, 0xa0, 0x80, 0x22],
    'UTF-16': [0xff, 0xfe, 0x7b, 0, 0x7d, 0],
    'beyond Unicode': [0x22, 0xf4, 0x90, 0x80, 0x80, 0x22],
  }).map(([name, body]) => ({ name: `bytes: ${name}`, body: new Uint8Array(body), expected: malformed }))
  const others: Case[] = Object.entries({
    null: null,
    number: 1,
    string: 'x',
    boolean: true,
    array: [],
    'array of it': [sample],
  }).map(([name, value]) => ({ name: `not an object: ${name}`, body: JSON.stringify(value), expected: invalid }))
  const extras: Case[] = ['extra', '__proto__', 'constructor', 'toString', 'hasOwnProperty', '', 'a\u00e9'].map(
    (name) => ({
      name: `extra member "${name}"`,
      body: `${text.slice(0, -1)}${text === '{}' ? '' : ','}${JSON.stringify(name)}:{"x":1}}`,
      expected: invalid,
      unnamed: true as const,
    }),
  )
  const prototypes: Case[] = [
    { name: 'all of it in __proto__', body: `{"__proto__":${text}}`, expected: invalid, unnamed: true },
    {
      name: 'nested and closed',
      body: `{"extra":${'['.repeat(20)}${']'.repeat(20)}}`,
      expected: invalid,
      unnamed: true,
    },
  ]
  const types: Case[] = [
    'text/plain',
    'application/x-www-form-urlencoded',
    'multipart/form-data; boundary=x',
    'application/xml',
    'application/jsonx',
    'application/problem+json',
    'text/json',
    'application/octet-stream',
    'nonsense',
  ].map((contentType) => ({ name: `type ${contentType}`, body: text, contentType, expected: unsupported }))
  const empties: Case[] =
    (root.required?.length ?? 0) > 0 || root.minProperties !== undefined
      ? [{ name: 'an empty object', body: '{}', expected: invalid }]
      : []
  // A schema that accepts any value has no wrong values.
  const places = placesIn(document, schema).filter(({ at, schema }) => at.length > 0 && Object.keys(schema).length > 0)
  const inPlaces = places.flatMap(({ at, schema, required }): Case[] => {
    const where = `/${at.join('/')}`
    const wrong = Object.entries(wrongValues(schema)).map(([name, value]) => ({
      name: `${where}: ${name}`,
      body: JSON.stringify(withAt(sample, at, value)),
      expected: invalid,
    }))
    const absent = required && typeof at.at(-1) === 'string'
    const unstorable = schema.type === 'string' ? ['\\u0000', '\\ud800', '\\udfff', '\\udfff\\ud800'] : []
    return [
      ...wrong,
      ...(absent
        ? [{ name: `${where}: missing`, body: JSON.stringify(withAt(sample, at, missing)), expected: invalid }]
        : []),
      ...unstorable.map((sequence) => ({
        name: `${where}: ${sequence}`,
        body: withEscape(withAt(sample, at, `abcdefgh${marker}`), sequence),
        expected: malformed,
        // A word that is not in a list of words is wrong anyway.
        ...(schema.enum === undefined && { unstorable: true as const }),
      })),
      ...(schema.type === 'object' && !where.startsWith('/passkey')
        ? [
            {
              name: `${where}: extra member`,
              body: JSON.stringify(withAt(sample, [...at, 'extra'], 1)),
              expected: invalid,
              unnamed: true as const,
            },
          ]
        : []),
    ]
  })
  const escapedNames: Case[] = ['\\u0000', '\\ud800'].map((sequence) => ({
    name: `extra member ${sequence}`,
    body: `${text.slice(0, -1)}${text === '{}' ? '' : ','}"${sequence}":1}`,
    expected: malformed,
    unstorable: true as const,
  }))
  return [...broken, ...bytes, ...others, ...extras, ...prototypes, ...types, ...empties, ...inPlaces, ...escapedNames]
}

const badIds = [
  'x',
  '0',
  'null',
  unknownId.slice(1),
  `${unknownId}0`,
  'ABCDEF00-0000-7000-8000-000000000000',
  `%20${unknownId}`,
  `${unknownId}%20`,
  `${unknownId}%0A`,
  `${unknownId}%00`,
  '%00',
  '%ZZ',
  '%',
  '%ED%A0%80',
  '%C0%80',
  '%D9%A0'.repeat(36),
  'é',
  `%7B${unknownId}%7D`,
  "'%20or%20'1'='1",
  '..%2f..%2fetc%2fpasswd',
  'a'.repeat(4_000),
]

const badLimits = [
  '',
  '0',
  '-1',
  '101',
  '1.5',
  'abc',
  '1e9',
  'NaN',
  'Infinity',
  'null',
  'true',
  '[5]',
  '%00',
  '%ZZ',
  '5%20',
  '٥',
]
/** Numbers to a lenient reader, but not limits as documented: a decimal integer from 1 to 100. */
const looseLimits = ['1e1', '0x10', '%205', '5%20', '+5', '5.0', '0b11']

const badCursors = [
  '',
  'abc',
  '=',
  '%00',
  '%ZZ',
  'é',
  Buffer.from('not an id').toString('base64url'),
  Buffer.from(unknownId.toUpperCase().replace('7', 'A')).toString('base64url'),
  Buffer.from(`${unknownId} `).toString('base64url'),
  `${Buffer.from(unknownId).toString('base64url')}=`,
  `${Buffer.from(unknownId).toString('base64url')}%0A`,
  'A'.repeat(65),
  'A'.repeat(5_000),
]

/** Whether a schema with a pattern and without a format accepts the text. */
const fits = (value: string, { pattern, format, maxLength = Number.POSITIVE_INFINITY }: Schema) =>
  pattern !== undefined && format === undefined && value.length <= maxLength && new RegExp(pattern, 'u').test(value)

/** Parameters that grant access without a token: every invalid value of one gets the same refusal. */
const credentials: Readonly<Record<string, string>> = {
  signature: '403 media.link_refused',
  share: '403 media.link_refused',
  ticket: '403 generation.stream_ticket_refused',
}

const casesForQuery = (template: string, { name, schema, required }: Parameter, others: readonly string[]): Case[] => {
  const values = { limit: [...badLimits, ...looseLimits], cursor: badCursors }[name] ?? ['', ...badIds]
  const rest = others.map((other) => `&${other}`).join('')
  return [
    ...values
      .filter((value) => !fits(value, schema))
      .map((value) => ({
        name: `?${name}=${value.slice(0, 60)}`,
        path: `?${name}=${value}${rest}`,
        expected: (isOfProviders({ template }) ? undefined : credentials[name]) ?? invalid,
      })),
    ...(required ? [{ name: `no ${name}`, path: `?${rest.slice(1)}`, expected: invalid }] : []),
  ]
}

const casesForParameters = (document: Document, { template, operation }: Pick<Route, 'template' | 'operation'>) => {
  const parameters = operation.parameters ?? []
  const needed = neededQuery(document, { operation })
  const query = needed.length === 0 ? '' : `?${needed.join('&')}`
  const inPath = parameters.filter((parameter) => parameter.in === 'path')
  const inQuery = parameters.filter((parameter) => parameter.in === 'query')
  const extra = ['extra=1', '__proto__=1', 'constructor=1', '%00=1', 'LIMIT=1', 'limit[]=1', 'cursor[x]=1']
  return [
    ...inPath.flatMap(({ name, schema }) =>
      badIds
        .filter((id) => !fits(id, schema))
        .map((id) => ({
          name: `{${name}} ${id.slice(0, 60)}`,
          path: fill(template.replace(`{${name}}`, id)) + query,
          expected: invalid,
        })),
    ),
    ...inQuery.flatMap((parameter) =>
      casesForQuery(template, parameter, neededQuery(document, { operation }, parameter.name)),
    ),
    ...(inQuery.length > 0
      ? extra.map((more) => ({ name: `?${more}`, path: `?${[...needed, more].join('&')}`, expected: invalid }))
      : []),
  ]
}

/** The same input in the form of AuthZEN, which stores nothing. */
const forAuthzen = (cases: readonly Case[]): Case[] =>
  cases
    .filter(({ unnamed, unstorable }) => !unnamed && !unstorable)
    .map((example) => (example.expected === invalid ? { ...example, expected: malformed } : example))

/** A body over the limit of its route is refused as too large, also where it is wrong in another way. */
const withLimit = (route: Route, cases: readonly Case[]): Case[] =>
  cases.map((example) =>
    example.contentType === undefined && Buffer.byteLength(example.body ?? '') > maxBytesOf(route)
      ? { ...example, expected: tooLarge }
      : example,
  )

const casesForRoute = (document: Document, { template, operation }: Route): Case[] => [
  // The body is valid, so that only the parameter is wrong.
  ...casesForParameters(document, { template, operation }).map((example) => ({
    ...example,
    ...(operation.requestBody && { body: JSON.stringify(sampleBodyOf(document, { template, operation, method: '' })) }),
  })),
  ...(operation.requestBody === undefined
    ? []
    : casesForBody(document, operation.requestBody.content[json]?.schema as Schema)),
]

const casesFor = (document: Document, route: Route): Case[] => {
  const cases = casesForRoute(document, route)
  return withLimit(route, isAuthzen(route) ? forAuthzen(cases) : cases)
}

/** A cursor is validated when the list is read, and some lists are read only with access to their resource. */
const within =
  (id: string) =>
  (example: Case): Case =>
    example.path?.includes('cursor=') ? { ...example, ids: id } : example

const targetOf = (route: Route, { path = '', ids = unknownId }: Case) =>
  (path.startsWith('/') ? path : pathOf(route) + path).replaceAll(unknownId, ids)

/** The routes with input as the source declares them; the document must have the same, or this suite would look away. */
const routesWithInput = [
  'POST /api/v1/auth/register',
  'POST /api/v1/auth/login',
  'POST /api/v1/auth/refresh',
  'PATCH /api/v1/auth/me',
  'POST /api/v1/auth/login/second-factor',
  'POST /api/v1/auth/login/passkey',
  'POST /api/v1/auth/reauthenticate',
  'POST /api/v1/auth/totp/confirm',
  'POST /api/v1/auth/passkeys',
  'PATCH /api/v1/auth/passkeys/{passkey_id}',
  'DELETE /api/v1/auth/passkeys/{passkey_id}',
  'DELETE /api/v1/users/{user_id}/second-factors',
  'GET /api/v1/auth/identity-providers/{provider_id}/start',
  'POST /api/v1/auth/identity-providers/{provider_id}/start',
  'GET /api/v1/auth/identity-providers/{provider_id}/callback',
  'POST /api/v1/auth/identity-providers/sign-in',
  'POST /api/v1/auth/identity-providers/reauthenticate',
  'POST /api/v1/auth/linked-identities',
  'DELETE /api/v1/auth/linked-identities/{linked_identity_id}',
  'POST /api/v1/auth/verify-email',
  'POST /api/v1/auth/verify-email/confirm',
  'POST /api/v1/auth/password-reset',
  'POST /api/v1/auth/password-reset/confirm',
  'POST /api/v1/auth/email',
  'POST /api/v1/auth/email/confirm',
  'POST /api/v1/auth/email/undo',
  'POST /api/v1/auth/password',
  'POST /api/v1/auth/account-invitation/confirm',
  'GET /api/v1/auth/sessions',
  'DELETE /api/v1/auth/sessions/{session_id}',
  'POST /api/v1/authorization/check',
  'POST /api/v1/authorization/check/batch',
  'POST /api/v1/authorization/explain',
  'GET /api/v1/authorization/accessible',
  'GET /api/v1/authorization/who',
  'POST /access/v1/evaluation',
  'POST /access/v1/evaluations',
  'POST /access/v1/search/subject',
  'POST /access/v1/search/resource',
  'POST /access/v1/search/action',
  'POST /api/v1/service-keys',
  'GET /api/v1/service-keys',
  'PATCH /api/v1/service-keys/{service_key_id}',
  'DELETE /api/v1/service-keys/{service_key_id}',
  'GET /api/v1/auth/audit',
  'GET /api/v1/performance/alerts',
  'GET /api/v1/performance/prd-compliance',
  'GET /api/v1/security/audit',
  'GET /api/v1/security/audit/verify',
  'POST /api/v1/security/audit/export',
  'GET /api/v1/teams/{team_id}/audit',
  'POST /api/v1/security/limits/lift',
  'GET /api/v1/users',
  'GET /api/v1/users/{user_id}',
  'GET /api/v1/users/{user_id}/quotas',
  'PATCH /api/v1/users/{user_id}',
  'POST /api/v1/users',
  'POST /api/v1/users/{user_id}/invitation',
  'POST /api/v1/users/{user_id}/password-reset',
  'DELETE /api/v1/users/{user_id}/sessions',
  'GET /api/v1/users/{user_id}/sign-in-failures',
  'DELETE /api/v1/users/{user_id}/sign-in-failures',
  'PUT /api/v1/security/flags',
  'PATCH /api/v1/security/breakers/{dependency}',
  'GET /api/v1/security/feature-flags',
  'GET /api/v1/security/feature-flags/{name}',
  'PUT /api/v1/security/feature-flags/{name}',
  'DELETE /api/v1/security/feature-flags/{name}',
  'GET /api/v1/security/feature-flags/{name}/versions',
  'POST /api/v1/security/feature-flags/{name}/restore',
  'GET /api/v1/security/incidents',
  'POST /api/v1/security/incidents',
  'GET /api/v1/security/incidents/{incident_id}',
  'PATCH /api/v1/security/incidents/{incident_id}',
  'PUT /api/v1/security/mode',
  'GET /api/v1/security/blocks',
  'POST /api/v1/security/blocks',
  'DELETE /api/v1/security/blocks/{block_id}',
  'POST /api/v1/teams',
  'GET /api/v1/teams',
  'GET /api/v1/teams/{team_id}',
  'PATCH /api/v1/teams/{team_id}',
  'DELETE /api/v1/teams/{team_id}',
  'GET /api/v1/teams/{team_id}/members',
  'PATCH /api/v1/teams/{team_id}/members/{user_id}',
  'DELETE /api/v1/teams/{team_id}/members/{user_id}',
  'POST /api/v1/teams/{team_id}/leave',
  'POST /api/v1/teams/{team_id}/transfer',
  'GET /api/v1/teams/{team_id}/statistics',
  'POST /api/v1/teams/{team_id}/invitations',
  'GET /api/v1/teams/{team_id}/invitations',
  'DELETE /api/v1/teams/{team_id}/invitations/{invitation_id}',
  'POST /api/v1/teams/invitations/accept',
  'POST /api/v1/teams/invitations/decline',
  'POST /api/v1/webhooks',
  'GET /api/v1/webhooks',
  'GET /api/v1/webhooks/{webhook_id}',
  'PATCH /api/v1/webhooks/{webhook_id}',
  'DELETE /api/v1/webhooks/{webhook_id}',
  'POST /api/v1/webhooks/{webhook_id}/secret',
  'GET /api/v1/webhooks/{webhook_id}/deliveries',
  'POST /api/v1/webhooks/{webhook_id}/deliveries/{event_id}/replay',
  'POST /api/v1/webhooks/{webhook_id}/replay',
  'POST /api/v1/teams/{team_id}/webhooks',
  'GET /api/v1/teams/{team_id}/webhooks',
  'GET /api/v1/teams/{team_id}/webhooks/{webhook_id}',
  'PATCH /api/v1/teams/{team_id}/webhooks/{webhook_id}',
  'DELETE /api/v1/teams/{team_id}/webhooks/{webhook_id}',
  'POST /api/v1/teams/{team_id}/webhooks/{webhook_id}/secret',
  'GET /api/v1/teams/{team_id}/webhooks/{webhook_id}/deliveries',
  'POST /api/v1/teams/{team_id}/webhooks/{webhook_id}/deliveries/{event_id}/replay',
  'POST /api/v1/teams/{team_id}/webhooks/{webhook_id}/replay',
  'POST /api/v1/projects',
  'GET /api/v1/projects',
  'GET /api/v1/projects/{project_id}',
  'PATCH /api/v1/projects/{project_id}',
  'DELETE /api/v1/projects/{project_id}',
  'POST /api/v1/projects/{project_id}/transfer',
  'GET /api/v1/projects/{project_id}/stats',
  'GET /api/v1/projects/{project_id}/teams',
  'POST /api/v1/projects/{project_id}/teams',
  'PATCH /api/v1/projects/{project_id}/teams/{team_id}',
  'DELETE /api/v1/projects/{project_id}/teams/{team_id}',
  'POST /api/v1/generations',
  'GET /api/v1/generations',
  'GET /api/v1/generations/{generation_id}',
  'PATCH /api/v1/generations/{generation_id}',
  'DELETE /api/v1/generations/{generation_id}',
  'POST /api/v1/generations/{generation_id}/cancel',
  'POST /api/v1/generations/{generation_id}/favorite',
  'GET /api/v1/generations/{generation_id}/provenance',
  'GET /api/v1/generations/{generation_id}/media',
  'GET /api/v1/media',
  'GET /api/v1/generations/{generation_id}/stream',
  'POST /api/v1/generations/{generation_id}/stream-tickets',
  'GET /api/v1/media/{media_id}',
  'DELETE /api/v1/media/{media_id}',
  'GET /api/v1/media/{media_id}/content',
  'POST /api/v1/media/links',
  'POST /api/v1/media/{media_id}/links',
  'POST /api/v1/media/{media_id}/share-links',
  'GET /api/v1/media/{media_id}/share-links',
  'DELETE /api/v1/media/{media_id}/share-links/{share_link_id}',
  'GET /api/v1/models',
  'GET /api/v1/models/{model_id}',
  'GET /api/v1/credits/ledger',
  'POST /api/v1/credits/grants',
]

/** The routes whose body is validated; the document must agree. */
const routesWithBody = routesWithInput.filter(
  (name) =>
    /^(POST|PUT|PATCH)/.test(name) &&
    !/(leave|cancel|stream-tickets|event_id[}][/]replay|user_id[}][/](invitation|password-reset))$/.test(name),
)

const answersOf = async (world: World, route: Route, cases: readonly Case[], token: string) => {
  const wrong: string[] = []
  for (const example of cases) {
    const { body, contentType = json, expected } = example
    const answer = await world.send(route.method as 'POST', targetOf(route, example), {
      token,
      ...(body !== undefined && { body: body as BodyInit, headers: { 'content-type': contentType } }),
    })
    if (example.path?.includes('%') && world.isRefusedByProxy(answer)) continue
    const isProblem = answer.headers.get('content-type') === 'application/problem+json'
    const known = isProblem && catalogue[answer.body.code as keyof typeof catalogue]?.status === answer.status
    const got = known ? `${answer.status} ${answer.body.code}` : `${answer.status} ${answer.text.slice(0, 100)}`
    if (got !== expected) wrong.push(`${example.name} -> ${got}, expected ${expected}`)
  }
  return wrong
}

/**
 * On every documented route with input, each kind of invalid input is refused with its 4xx code, and nothing is stored.
 */
export const badInput: Group = (world) =>
  describe('bad input', () => {
    let person: Person
    let operator: Person | undefined
    let key: string | undefined
    let projectId: string
    let generationId: string
    let mediaId: string
    let before: Record<string, number> | undefined
    beforeAll(async () => {
      person = await world().register()
      operator = await world().operator()
      if (operator !== undefined) {
        const scopes = ['authorization:check', 'authorization:list']
        key = (await world().post('/api/v1/service-keys', { name: 'k', scopes }, { token: operator.token })).body.key
      }
      projectId = (await world().post('/api/v1/projects', { name: 'Own' }, { token: person.token })).body.id
      const asked = { model: 'local/procedural', prompt: 'p', parameters: { width: 64, height: 64 } }
      generationId = (await world().post('/api/v1/generations', asked, { token: person.token })).body.id
      const made = async () =>
        (await world().get(`/api/v1/generations/${generationId}/media`, { token: person.token })).body.items
      await until(async () => (await made()).length > 0, 'there is a picture')
      mediaId = (await made())[0].id
      const { countRows } = world().subject
      if (countRows === undefined) return
      // A loaded server erases closed accounts later, once a minute.
      const hasErased = async () => (await countRows())['account_erasures'] === 0
      await until(hasErased, 'closed accounts are erased', 75_000)
      before = await countRows()
    }, 100_000)
    afterAll(async () => {
      expect((await world().get('/api/v1/auth/me', { token: person.token })).body).toEqual(person.user)
    })

    const routeOf = (name: string): Route => {
      const route = routesOf(world().document).find((candidate) => nameOf(candidate) === name)
      if (route === undefined) throw new Error(`${name} is not documented`)
      return route
    }

    /** The credential of a caller whose input is read; undefined if the run cannot have it. */
    const credentialFor = (name: string): string | undefined => {
      if (name.includes(' /access/v1/')) return key
      return /[/]v1[/](service-keys|users|webhooks|performance|security|credits[/]grants)/.test(name)
        ? operator?.token
        : person.token
    }

    test('the suite covers every documented route with input', () => {
      const documented = routesOf(world().document)
        .filter(({ operation }) => operation.requestBody !== undefined || ownParameters(operation).length > 0)
        // Uploaded bytes have their own suite.
        .filter((route) => !isUpload(route))
        .map(nameOf)
      expect(documented.sort()).toEqual([...routesWithInput].sort())
      const withBody = routesOf(world().document).filter(
        (route) => route.operation.requestBody !== undefined && !isUpload(route),
      )
      expect(withBody.map(nameOf).sort()).toEqual([...routesWithBody].sort())
    })

    for (const name of routesWithInput) {
      test(`${name}: each case is refused with its own code`, async () => {
        const route = routeOf(name)
        const own = name.includes('media_id') ? mediaId : name.includes('generation_id') ? generationId : projectId
        const cases = casesFor(world().document, route).map(within(own))
        expect(cases.length).toBeGreaterThan(10)
        const token = credentialFor(name)
        // Without an operator every request is refused before its input is read.
        if (token !== undefined) expect(await answersOf(world(), route, cases, token)).toEqual([])
      })
    }

    for (const name of routesWithBody) {
      const ask = (headers: Record<string, string>, parts: readonly (string | Uint8Array)[]) => {
        const route = routeOf(name)
        const authorization = `Bearer ${credentialFor(name)}`
        const head = headOf(route.method, pathOf(route), { authorization, ...headers })
        return world().raw(route.method, pathOf(route), [head, ...parts])
      }
      const coded = (answer: Awaited<ReturnType<typeof ask>>) =>
        answer && `${answer.status} ${(/"code":"([^"]+)"/.exec(answer.body) ?? [])[1]}`
      const body = () => JSON.stringify(sampleBodyOf(world().document, routeOf(name)))

      test(`${name}: a body one byte over its limit is refused with the limit before it is sent`, async () => {
        if (credentialFor(name) === undefined) return
        const maxBytes = maxBytesOf(routeOf(name))
        // No byte of the body is sent: the answer must arrive without it.
        const announced = { 'content-type': json, 'content-length': String(maxBytes + 1), expect: '100-continue' }
        const answer = await ask(announced, [])
        expect([coded(answer), JSON.parse(answer?.body ?? '').max_bytes]).toEqual([tooLarge, maxBytes])
      })

      test(`${name}: a chunked body over its limit is refused while it comes in`, async () => {
        if (credentialFor(name) === undefined) return
        const size = 4_096
        const chunk = `${size.toString(16)}\r\n${'x'.repeat(size)}\r\n`
        const chunks = Array<string>(maxBytesOf(routeOf(name)) / size + 2).fill(chunk)
        const answer = await ask({ 'content-type': json, 'transfer-encoding': 'chunked' }, chunks)
        expect(coded(answer)).toBe(tooLarge)
      })

      test(`${name}: a body without a type, or none at all`, async () => {
        if (credentialFor(name) === undefined) return
        const length = String(body().length)
        expect(coded(await ask({ 'content-length': length }, [body()]))).toBe(unsupported)
        expect(coded(await ask({ 'content-type': '', 'content-length': length }, [body()]))).toBe(unsupported)
        expect(coded(await ask({ 'transfer-encoding': 'chunked' }, [`1\r\n{\r\n0\r\n\r\n`]))).toBe(unsupported)
        for (const headers of [{}, { 'content-length': '0' }, { 'content-type': json, 'content-length': '0' }]) {
          expect(coded(await ask(headers as Record<string, string>, []))).toBe(malformed)
        }
        expect(coded(await ask({ 'transfer-encoding': 'chunked' }, ['0\r\n\r\n']))).toBe(malformed)
      })
    }

    test('a body that holds more than it may is refused with 400 and the limit, before it is parsed', async () => {
      const longNumber = '1'.repeat(1_025)
      const [arrays, objects] = [
        '['.repeat(30_000) + ']'.repeat(30_000),
        `${'{"a":'.repeat(9_000)}1${'}'.repeat(9_000)}`,
      ]
      const ask = async (text: string) =>
        (await world().post('/api/v1/projects', `{"name":"P","extra":${text}}`, { token: person.token })).body
      for (const [text, detail] of [
        [arrays, 'must be nested at most 64 levels deep'],
        [objects, 'must be nested at most 64 levels deep'],
        [`["\\u0041",${arrays}]`, 'must be nested at most 64 levels deep'],
        [`[${Array(20_001).fill(1)}]`, 'must have at most 20000 values'],
        [`[${longNumber}]`, 'must have no number longer than 1024 bytes'],
      ] as const) {
        const { status, errors } = await ask(text)
        expect([detail, status, errors]).toEqual([detail, 400, [{ in: 'body', pointer: '', detail }]])
      }
    })

    test('an e-mail address that grows beyond the limit when normalized is refused', async () => {
      // Lower-casing and NFC turn one character into two or three.
      for (const character of ['\u0130', '\u0958', '\ufb2c']) {
        const email = `${character.repeat(200)}@example.com`
        const { status, body } = await world().post('/api/v1/auth/register', { email, password: 'an uncommon phrase' })
        expect([character, status, body.code]).toEqual([character, 422, 'request.invalid'])
      }
    })

    test('an e-mail address with control characters is refused', async () => {
      for (const email of ['a\x01@b.co', 'a@b\x01.co', 'a@b.co\x7f', 'a@b.c\x1fo']) {
        const { status, body } = await world().post('/api/v1/auth/register', { email, password: 'an uncommon phrase' })
        expect([email, status, body.code]).toEqual([email, 422, 'request.invalid'])
      }
    })

    test('a body of exactly the limit of its route is read, and one byte more is refused', async () => {
      const padded = (length: number) => `{"extra":"${'x'.repeat(length - 12)}"}`
      for (const name of [
        'POST /api/v1/auth/login',
        'POST /api/v1/projects',
        'POST /api/v1/authorization/check/batch',
      ]) {
        const maxBytes = maxBytesOf(routeOf(name))
        expect(padded(maxBytes)).toHaveLength(maxBytes)
        const ask = async (length: number) =>
          (await world().post(pathOf(routeOf(name)), padded(length), { token: person.token })).body.code as string
        expect([name, await ask(maxBytes), await ask(maxBytes + 1)]).toEqual([
          name,
          'request.invalid',
          'request.too_large',
        ])
      }
    })

    test('malformed HTTP never results in a 5xx other than 505', async () => {
      const { baseUrl } = world().subject
      const length = { 'content-type': json, connection: 'close' }
      for (const parts of [
        ['NONSENSE\r\n\r\n'],
        ['GET /health HTTP/9.9\r\nhost: x\r\n\r\n'],
        [headOf('POST', '/api/v1/auth/login', { ...length, 'content-length': 'many' })],
        [headOf('POST', '/api/v1/auth/login', { ...length, 'content-length': '-5' })],
        [headOf('POST', '/api/v1/auth/login', { ...length, 'content-length': '1e3' })],
        [headOf('POST', '/api/v1/auth/login', { ...length, 'transfer-encoding': 'chunked' }), 'zz\r\nx\r\n0\r\n\r\n'],
        [headOf('POST', '/api/v1/auth/login', { ...length, 'transfer-encoding': 'gzip, identity' }), '{}'],
        ['GET /health HTTP/1.1\r\nhost: x\r\nbroken header\r\nconnection: close\r\n\r\n'],
      ]) {
        const answer = await sendRaw(baseUrl, parts)
        if (answer && world().isRefusedByProxy({ status: answer.status, text: answer.body })) continue
        // 505 is the answer to an unknown HTTP version.
        const { status } = answer ?? { status: 400 }
        expect([parts[0], status < 500 || status === 505]).toEqual([parts[0], true])
      }
      expect((await world().get('/health')).status).toBe(200)
    })

    test('no refused request stored anything', async () => {
      const { countRows } = world().subject
      if (countRows === undefined) return
      expect(await countRows()).toEqual(before as Record<string, number>)
    })
  })
