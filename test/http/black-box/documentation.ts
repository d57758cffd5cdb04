import { describe, expect, test } from 'bun:test'
import { catalogue, type FaultCode } from '../../../src/fault.ts'
import {
  isAuthzen,
  isUpload,
  misfits,
  nameOf,
  type Operation,
  ownParameters,
  type Route,
  routesOf,
  type Schema,
} from './document.ts'
import type { Group } from './driver.ts'

/**
 * Faults that need a broken or full server, or an empty balance. Other suites cover them. Every route can answer
 * `limit.exceeded`; here one does.
 */
const unprovoked: readonly FaultCode[] = [
  'request.timeout',
  'request.outcome_unknown',
  'server.failed',
  'server.overloaded',
  'server.stopping',
  'database.unavailable',
  'bus.mismatch',
  'identity.busy',
  'identity.password_breached',
  'identity.email_not_verified',
  'mail.not_configured',
  'media.unavailable',
  'media.busy',
  'media.too_slow',
  'media.too_many_uploads',
  'credits.insufficient',
  'generation.streams_full',
  'performance.streams_full',
  'generation.too_many_streams_from_address',
  'limit.exceeded',
  'limit.unavailable',
  'feature_flag.too_many',
  'block.too_many',
]

/** Refusals of all routes, or of all of a class, of which the suite causes each on a few. */
const ofManyRoutes: readonly FaultCode[] = ['access.blocked', 'mode.no_register', 'mode.read_only', 'mode.lockdown']

/** Credentials by route: none, a user's token, a service key, either of the two, or a token, a ticket or a link's parameters. */
const waysIn = [
  [],
  [{ bearer: [] }, { cookie: [] }],
  [{ service_key: [] }],
  [{ bearer: [] }, { service_key: [] }],
  [{ bearer: [] }, { service_key: [] }, { cookie: [] }],
  [{ bearer: [] }, { cookie: [] }, { stream_ticket: [] }],
  [{ bearer: [] }, { cookie: [] }, { service_key: [] }],
  [{ bearer: [] }, { cookie: [] }, { signed_link: [] }, { share_link: [] }, { service_key: [] }],
].map((ways) => JSON.stringify(ways))

/** Operators are created in the database. Without it the run has no operators, suspended or limited accounts, or service keys. */
const codesOfOperators: readonly FaultCode[] = [
  'service_key.not_found',
  'service_key.scope_missing',
  'service_key.user_not_active',
  'access.people_only',
  'incident.not_found',
  'incident.closed',
  'incident.assignee_unfit',
  'feature_flag.not_found',
  'feature_flag.version_not_found',
  'feature_flag.changed',
  'breaker.cannot_be_held_open',
  'mode.no_register',
  'mode.read_only',
  'mode.lockdown',
  'access.blocked',
  'block.not_found',
  'block.exists',
  'block.own_address',
  'block.own_account',
  'identity.account_suspended',
  'user.not_found',
  'user.deleted',
  'user.own_account',
  'user.suspended',
  'user.has_password',
  'team.new_owner_inactive',
  'quota.stored_bytes',
  'quota.jobs_under_way',
  'quota.projects',
  'quota.teams',
  'quota.team_members',
  'project.new_owner_full',
  'team.new_owner_full',
]
/** Without an identity provider, nobody signs in with one: test/http/identity-provider-runtimes.test.ts has one. */
const codesOfProviders: readonly FaultCode[] = [
  'identity_provider.state_invalid',
  'identity_provider.ticket_invalid',
  'identity_provider.email_unverified',
  'identity_provider.account_exists',
  'identity_provider.code_used',
  'linked_identity.not_found',
  'linked_identity.taken',
  'linked_identity.too_many',
  'linked_identity.address_unverified',
  'linked_identity.last_way_in',
]
export const isOfProviders = ({ template }: Pick<Route, 'template'>) =>
  /^[/]api[/]v1[/]auth[/](identity-providers|linked-identities)/.test(template)
/** Five minutes, another configuration, or an account without a password away: test/http/passkeys.test.ts and others have them. */
const codesOfFactors: readonly FaultCode[] = [
  'session.reauthentication_required',
  'passkey.not_configured',
  'identity.last_way_in',
]
/** Known only to who reads the mails of the run, which are in the output of the server. */
const codesOfMails: readonly FaultCode[] = ['one_time_token.gone']
const needsMail = ({ template }: Route) => /^[/]api[/]v1[/]auth[/].*[/](confirm|undo)$/.test(template)

/** Answers that another configuration gives, by route. */
const byConfiguration: Readonly<Record<string, readonly number[]>> = { 'POST /api/v1/auth/register': [202] }

const isOfOperators = ({ template }: Route) =>
  isAuthzen({ template }) ||
  /^[/]api[/]v1[/](service-keys|users|webhooks|security|performance|credits[/]grants)/.test(template)

/** Routes that do not answer JSON, by the last segment of their path. */
const ownTypes: Readonly<Record<string, string>> = {
  content: 'image/webp',
  stream: 'text/event-stream',
  export: 'application/zip',
  '/api/v1/security/audit/export': 'application/x-ndjson',
  '/metrics': 'text/plain; version=0.0.4; charset=utf-8',
}

/** The input is checked before the caller, so every route with a body can answer these. */
const ofBodies = [400, 413, 415, 422]

/** The fault codes a document gives for one answer. */
const codesOf = (answer: Operation['responses'][string] | undefined): FaultCode[] =>
  (answer?.content?.['application/problem+json']?.schema.allOf ?? []).flatMap(
    ({ properties }) => (properties?.['code']?.enum ?? []) as FaultCode[],
  )

/** The documented answers of a route that a client can cause. */
const expectedOf = ({ template, operation }: Route, beyond: readonly FaultCode[]): number[] => {
  const documented = Object.keys(operation.responses)
    .map(Number)
    .filter((status) => status < 300 || codesOf(operation.responses[status]).some((code) => !beyond.includes(code)))
  const success = documented.filter((status) => status < 300)
  const own = documented.filter((status) => status > 400 && status < 500 && !ofBodies.includes(status))
  const input = operation.requestBody
    ? isAuthzen({ template })
      ? [400, 413, 415]
      : ofBodies.filter((status) => status !== 400 || !isUpload({ operation }))
    : ownParameters(operation).length > 0
      ? [422]
      : []
  return [...success, ...own, ...input]
}

const everySchema = (value: unknown, at: string): [string, Schema][] => {
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([name, member]): [string, Schema][] => [
    ...(name === 'schema' ? [[`${at}/${name}`, member as Schema] as [string, Schema]] : []),
    ...everySchema(member, `${at}/${name}`),
  ])
}

const everyNode = (value: unknown, at: string): [string, object][] =>
  typeof value !== 'object' || value === null
    ? []
    : [[at, value], ...Object.entries(value).flatMap(([name, member]) => everyNode(member, `${at}/${name}`))]

/** The last group: compares the answers of all other groups with the document. */
export const documentation: Group = (world) =>
  describe('the document', () => {
    const routes = () => routesOf(world().document)
    const beyond = (): readonly FaultCode[] => [
      ...unprovoked,
      ...codesOfFactors,
      ...(world().subject.makeAdmin === undefined ? codesOfOperators : []),
      ...(world().subject.identityProvider === undefined ? codesOfProviders : []),
      ...(world().subject.output === undefined ? codesOfMails : []),
      // A proxy refuses it first.
      ...(world().subject.proxy === undefined ? [] : (['request.host_invalid'] as const)),
    ]

    test('is OpenAPI 3.1 with titles, tags and the security scheme', () => {
      const { openapi, info, tags, components } = world().document
      expect(openapi).toMatch(/^3\.1\.\d$/)
      expect(info).toMatchObject({ title: 'Velro', version: expect.stringMatching(/^\d+\.\d+\.\d+$/) })
      expect(components.securitySchemes).toEqual({
        bearer: expect.objectContaining({ type: 'http', scheme: 'bearer', bearerFormat: 'JWT' }),
        service_key: expect.objectContaining({ type: 'http', scheme: 'bearer' }),
        cookie: expect.objectContaining({ type: 'apiKey', in: 'cookie', name: '__Host-velro_access' }),
        stream_ticket: expect.objectContaining({ type: 'apiKey', in: 'query', name: 'ticket' }),
        signed_link: expect.objectContaining({ type: 'apiKey', in: 'query', name: 'signature' }),
        share_link: expect.objectContaining({ type: 'apiKey', in: 'query', name: 'share' }),
      } as never)
      const used = new Set(routes().flatMap(({ operation }) => operation.tags))
      expect([...used].sort()).toEqual(tags.map(({ name }) => name).sort())
    })

    test('each operation has a unique id, a summary, one tag and its security', () => {
      const ids = routes().map(({ operation }) => operation.operationId)
      expect(new Set(ids).size).toBe(ids.length)
      for (const { operation } of routes()) {
        expect(operation.operationId).toMatch(/^[\w.-]+$/)
        expect(operation.summary.length).toBeGreaterThan(3)
        expect(operation.tags).toHaveLength(1)
        expect(waysIn).toContain(JSON.stringify(operation.security))
        if (operation.security.length > 0) expect(operation.responses).toHaveProperty('401')
      }
    })

    test('each path declares exactly its parameters', () => {
      for (const route of routes()) {
        const inTemplate = [...route.template.matchAll(/\{(\w+)\}/g)].map(([, name]) => name)
        const declared = (route.operation.parameters ?? []).filter((parameter) => parameter.in === 'path')
        expect([nameOf(route), declared.map(({ name }) => name)]).toEqual([nameOf(route), inTemplate as string[]])
        for (const { name, required } of declared) expect([name, required]).toEqual([name, true])
      }
    })

    test('bodies are required and JSON, and allow no unknown members', () => {
      for (const route of routes().filter(({ operation }) => operation.requestBody !== undefined)) {
        const { requestBody } = route.operation
        if (isUpload(route)) {
          expect(requestBody).toEqual({
            required: true,
            content: Object.fromEntries(
              ['image/webp', 'image/png', 'image/jpeg', 'multipart/form-data'].map((type) => [type, { schema: {} }]),
            ),
            'x-max-bytes': 25 * 1_048_576,
          })
          continue
        }
        expect([nameOf(route), requestBody?.required]).toEqual([nameOf(route), true])
        expect([8_192, 65_536, 1_048_576]).toContain(requestBody?.['x-max-bytes'] as number)
        const finer = ['415', '422'].filter((status) => Object.hasOwn(route.operation.responses, status))
        expect([nameOf(route), finer]).toEqual([nameOf(route), isAuthzen(route) ? ['415'] : ['415', '422']])
        expect(Object.keys(requestBody?.content ?? {})).toEqual(['application/json'])
        for (const [at, node] of everyNode(requestBody?.content, '')) {
          const { type, properties } = node as Schema
          // A map of names to one kind of value, such as a model's parameters, is open by design. So is what a browser
          // makes of a passkey, to which others add members.
          const isMap = typeof (node as Schema).additionalProperties === 'object'
          if (type !== 'object' || properties === undefined || isMap || at.includes('/passkey')) continue
          expect([nameOf(route), at, (node as Schema).additionalProperties]).toEqual([
            nameOf(route),
            at,
            isAuthzen(route),
          ])
        }
      }
    })

    test('every response has no content, or a media type with a schema that this suite can check', () => {
      for (const route of routes()) {
        for (const [status, { description, content }] of Object.entries(route.operation.responses)) {
          expect(description.length).toBeGreaterThan(0)
          const types = Object.keys(content ?? {})
          const isEmpty = ['204', '303', '304'].includes(status)
          const success =
            ownTypes[route.template] ?? ownTypes[route.template.split('/').at(-1) ?? ''] ?? 'application/json'
          const expected = Number(status) >= 400 ? 'application/problem+json' : isEmpty ? undefined : success
          const name = `${nameOf(route)} ${status}`
          if (expected === undefined) expect([name, types]).toEqual([name, []])
          else expect([name, types]).toEqual([name, expect.arrayContaining([expected])])
        }
      }
      for (const [at, schema] of everySchema(world().document.paths, '')) {
        // Throws for an unknown keyword or reference.
        expect([at, Array.isArray(misfits(world().document, schema, undefined))]).toEqual([at, true])
      }
    })

    test('the 503 of /ready is documented beside the errors of that status', () => {
      const { content = {} } = world().document.paths['/ready']?.['get']?.responses['503'] ?? {}
      expect(Object.keys(content).sort()).toEqual(['application/json', 'application/problem+json'])
      const said = { status: 'not_ready', reasons: ['database.unavailable'] }
      expect(misfits(world().document, content['application/json']?.schema as Schema, said)).toEqual([])
    })

    test('no number in a response is documented as text', () => {
      const { paths, components } = world().document
      const numeric = everyNode({ paths, components }, '').filter(
        ([at, node]) => !at.includes('/parameters/') && ['integer', 'numeric'].includes((node as Schema).format ?? ''),
      )
      expect(numeric.map(([at]) => at)).toEqual([])
    })

    test('every error code in it is in the catalogue, under its status', () => {
      for (const [at, node] of everyNode(world().document.paths, '')) {
        const code = (node as Schema).properties?.['code']
        if (code?.enum === undefined || !at.includes('/responses/')) continue
        const status = Number(/\/responses\/(\d+)\//.exec(at)?.[1])
        for (const name of code.enum) expect([at, catalogue[name as FaultCode]?.status]).toEqual([at, status as never])
      }
    })

    test('every documented response that a client can cause was seen on every route', () => {
      const within = routes()
        .filter((route) => world().subject.makeAdmin !== undefined || !isOfOperators(route))
        .filter((route) => world().subject.identityProvider !== undefined || !isOfProviders(route))
        .filter((route) => world().subject.output !== undefined || !needsMail(route))
      const unseen = within.flatMap((route) => {
        const sight = world().ledger.seen.get(nameOf(route))
        const elsewhere = byConfiguration[nameOf(route)] ?? []
        const missing = expectedOf(route, [...beyond(), ...ofManyRoutes]).filter(
          (status) => !sight?.statuses.has(status) && !elsewhere.includes(status),
        )
        return missing.map((status) => `${nameOf(route)} ${status}`)
      })
      expect(unseen).toEqual([])
    })

    test('every error of the catalogue was seen, except those that need a broken server', () => {
      const unseen = Object.keys(catalogue).filter((code) => !world().ledger.codes.has(code))
      expect(unseen.filter((code) => !beyond().includes(code as FaultCode))).toEqual([])
    })

    test('no request of this suite failed with an internal error', () => {
      expect(world().ledger.codes.has('server.failed')).toBe(false)
    })

    test('every response that this suite saw is documented, with its media type and schema', () => {
      expect([...new Set(world().ledger.breaches)]).toEqual([])
    })

    test('no password, password hash or token was written to the log', () => {
      const { secrets, subject } = world()
      if (subject.output === undefined) return
      expect(secrets.size).toBeGreaterThan(50)
      // Mails are written there on request, with their links.
      const written = subject
        .output()
        .split('\n')
        .filter((line) => !line.includes('"mail.logged"'))
        .join('\n')
      expect(written).toContain('"request_id"')
      expect([...secrets].filter((secret) => written.includes(secret))).toEqual([])
      expect(written).not.toContain('$argon2')
    })

    test('every 201 that this suite saw says where what was created is, at a path of the document', () => {
      expect([...new Set(world().ledger.unlocated)]).toEqual([])
    })

    test('every response that this suite saw had all security headers', () => {
      expect([...new Set(world().ledger.bare)]).toEqual([])
    })

    test('a request to a route of the front door has the same answer by the general way', () => {
      expect([...new Set(world().ledger.differing)]).toEqual([])
    })
  })
