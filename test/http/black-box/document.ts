/** The part of JSON Schema 2020-12 that the document of this service uses. */
export type Schema = {
  $ref?: string
  allOf?: Schema[]
  anyOf?: Schema[]
  type?: 'object' | 'array' | 'string' | 'number' | 'integer' | 'boolean' | 'null'
  const?: unknown
  enum?: unknown[]
  properties?: Record<string, Schema>
  required?: string[]
  additionalProperties?: boolean | Schema
  patternProperties?: Record<string, Schema>
  minProperties?: number
  items?: Schema
  uniqueItems?: boolean
  minItems?: number
  maxItems?: number
  minLength?: number
  maxLength?: number
  pattern?: string
  format?: string
  minimum?: number
  maximum?: number
  default?: unknown
  description?: string
}

export type Parameter = { in: 'path' | 'query' | 'header'; name: string; required?: boolean; schema: Schema }
type Content = Record<string, { schema: Schema }>

export type Operation = {
  operationId: string
  summary: string
  tags: string[]
  security: Record<string, string[]>[]
  parameters?: Parameter[]
  requestBody?: { required?: boolean; content: Content; 'x-max-bytes'?: number }
  responses: Record<string, { description: string; content?: Content }>
  'x-scope'?: string
}

export type Document = {
  openapi: string
  info: { title: string; version: string }
  tags: { name: string }[]
  components: { schemas: Record<string, Schema>; securitySchemes: Record<string, { type: string; scheme: string }> }
  paths: Record<string, Record<string, Operation>>
}

/** An id that no resource has. */
export const unknownId = '00000000-0000-7000-8000-000000000000'

/** The parameters that a person sends. */
export const ownParameters = ({ parameters = [] }: Operation): Parameter[] =>
  parameters.filter(({ name }) => name !== 'Velro-User')

/** One entry of the document, by method in upper case and path template. */
export type Route = { method: string; template: string; operation: Operation }

export const nameOf = ({ method, template }: Route) => `${method} ${template}`

export const routesOf = ({ paths }: Document): Route[] =>
  Object.entries(paths).flatMap(([template, operations]) =>
    Object.entries(operations).map(([method, operation]) => ({ method: method.toUpperCase(), template, operation })),
  )

/** A parameter whose pattern takes a slash may be sent with its slashes as they are. */
const expressionOf = ({ template, operation }: Route) => {
  const takesSlash = (name: string) => {
    const pattern = operation.parameters?.find((parameter) => parameter.name === name)?.schema.pattern
    return pattern !== undefined && new RegExp(pattern, 'u').test('a/b')
  }
  return new RegExp(`^${template.replaceAll(/\{(\w+)\}/g, (_, name) => (takesSlash(name) ? '.+' : '[^/]+'))}/?$`)
}

/** Finds the route a request goes to; the template with the fewest parameters wins, as in a router. */
export const createRouteFinder = (document: Document) => {
  const routes = routesOf(document)
    .map((route) => ({ route, expression: expressionOf(route) }))
    .sort((a, b) => a.route.template.split('{').length - b.route.template.split('{').length)
  return (method: string, path: string): Route | undefined =>
    routes.find(({ route, expression }) => route.method === method && expression.test(path))?.route
}

export const resolve = (document: Document, schema: Schema): Schema => {
  if (schema.$ref === undefined) return schema
  const name = schema.$ref.replace('#/components/schemas/', '')
  const found = document.components.schemas[name]
  if (found === undefined) throw new Error(`The document refers to ${schema.$ref}, which it does not have`)
  return found
}

const formats: Record<string, RegExp> = {
  uuid: /^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$/,
  'date-time': /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/,
}

const typeOf = (value: unknown) => (value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value)

const isOfType = (type: string, value: unknown) =>
  type === 'integer' ? Number.isInteger(value) : typeOf(value) === type

type Check = (value: never, schema: Schema, at: string, document: Document) => string[]

const say = (ok: boolean, at: string, words: string) => (ok ? [] : [`${at || '/'} ${words}`])

/** A keyword that is not here is refused, so that nothing in the document goes unchecked. */
const keywords: Record<keyof Schema, Check> = {
  $ref: (value, schema, at, document) => misfits(document, resolve(document, schema), value, at),
  allOf: (value, { allOf = [] }, at, document) => allOf.flatMap((part) => misfits(document, part, value, at)),
  anyOf: (value, { anyOf = [] }, at, document) =>
    say(
      anyOf.some((part) => misfits(document, part, value, at).length === 0),
      at,
      'fits none of the alternatives',
    ),
  type: (value, { type = '' }, at) => say(isOfType(type, value), at, `is ${typeOf(value)}, not ${type}`),
  const: (value, schema, at) => say(value === schema.const, at, `is not ${schema.const}`),
  enum: (value, schema, at) => say(schema.enum?.includes(value) === true, at, `is ${value}, none of ${schema.enum}`),
  required: (value: object, { required = [] }, at) =>
    required.flatMap((name) => say(Object.hasOwn(value, name), at, `has no ${name}`)),
  properties: (value: object, { properties = {} }, at, document) =>
    Object.entries(value).flatMap(([name, member]) =>
      Object.hasOwn(properties, name) ? misfits(document, properties[name] as Schema, member, `${at}/${name}`) : [],
    ),
  additionalProperties: (value: object, { additionalProperties = true, properties = {} }, at, document) =>
    Object.entries(value).flatMap(([name, member]) => {
      if (additionalProperties === true || Object.hasOwn(properties, name)) return []
      return additionalProperties === false
        ? say(false, at, `has an undocumented ${name}`)
        : misfits(document, additionalProperties, member, `${at}/${name}`)
    }),
  patternProperties: (value: object, { patternProperties = {} }, at, document) =>
    Object.entries(value).flatMap(([name, member]) =>
      Object.entries(patternProperties)
        .filter(([pattern]) => new RegExp(pattern, 'u').test(name))
        .flatMap(([, schema]) => misfits(document, schema, member, `${at}/${name}`)),
    ),
  minProperties: (value: object, { minProperties = 0 }, at) =>
    say(Object.keys(value).length >= minProperties, at, 'has too few properties'),
  items: (value: unknown[], { items = {} }, at, document) =>
    value.flatMap((item, index) => misfits(document, items, item, `${at}/${index}`)),
  minItems: (value: unknown[], { minItems = 0 }, at) => say(value.length >= minItems, at, 'has too few items'),
  maxItems: (value: unknown[], { maxItems = 0 }, at) => say(value.length <= maxItems, at, 'has too many items'),
  uniqueItems: (value: unknown[], _, at) =>
    say(new Set(value.map((item) => JSON.stringify(item))).size === value.length, at, 'has an item twice'),
  minLength: (value: string, { minLength = 0 }, at) => say(value.length >= minLength, at, 'is too short'),
  maxLength: (value: string, { maxLength = 0 }, at) => say(value.length <= maxLength, at, 'is too long'),
  pattern: (value: string, { pattern = '' }, at) => say(new RegExp(pattern, 'u').test(value), at, `is not ${pattern}`),
  format: (value: string, { format = '' }, at) =>
    say(formats[format]?.test(value) === true, at, `is not of format ${format}`),
  minimum: (value: number, { minimum = 0 }, at) => say(value >= minimum, at, `is below ${minimum}`),
  maximum: (value: number, { maximum = 0 }, at) => say(value <= maximum, at, `is above ${maximum}`),
  default: () => [],
  description: () => [],
}

/** Where and how a value does not fit a schema of the document. */
export const misfits = (document: Document, schema: Schema, value: unknown, at = ''): string[] => {
  if (schema.type !== undefined && !isOfType(schema.type, value))
    return keywords.type(value as never, schema, at, document)
  return Object.keys(schema).flatMap((keyword) => {
    const check = keywords[keyword as keyof Schema]
    if (check === undefined) throw new Error(`The document uses ${keyword}, which this suite cannot check`)
    // In a schema without a type, a keyword applies only to values of the keyword's type.
    if (schema.type === undefined && keyword === 'properties' && typeOf(value) !== 'object') return []
    return check(value as never, schema, at, document)
  })
}

/** A value that satisfies a schema. */
export const sampleOf = (document: Document, given: Schema): unknown => {
  const schema = resolve(document, given)
  if (schema.const !== undefined) return schema.const
  if (schema.enum !== undefined) return schema.enum[0]
  if (schema.anyOf !== undefined) return sampleOf(document, schema.anyOf[0] as Schema)
  if (schema.type === 'object') {
    return Object.fromEntries(
      Object.entries(schema.properties ?? {}).map(([name, member]) => [name, sampleOf(document, member)]),
    )
  }
  if (schema.type === 'array') return [sampleOf(document, schema.items ?? {})]
  if (schema.type === 'integer' || schema.type === 'number') return schema.minimum ?? 0
  if (schema.type === 'boolean') return true
  if (schema.format === 'uuid') return unknownId
  if (schema.format === 'date-time') return '2999-01-01T00:00:00.000Z'
  if (schema.pattern?.includes('@')) return 'nobody@example.com'
  return 'x'.repeat(Math.max(schema.minLength ?? 0, 8))
}

/** The template's path with unknown ids, and a name where a parameter is one of a few names. */
export const fill = (template: string) => template.replaceAll('{dependency}', 'siem').replaceAll(/\{\w+\}/g, unknownId)

/** The route's path with unknown ids. */
export const pathOf = ({ template }: Route) => fill(template)

/** The required query parameters, each with a valid value; `except` leaves one out. */
export const neededQuery = (document: Document, { operation }: Pick<Route, 'operation'>, except?: string): string[] =>
  (operation.parameters ?? [])
    .filter((parameter) => parameter.in === 'query' && parameter.required && parameter.name !== except)
    .map(({ name, schema }) => `${name}=${sampleOf(document, schema)}`)

/** The route's path with unknown ids and its required query parameters. */
export const targetOf = (document: Document, route: Route): string => {
  const query = neededQuery(document, route)
  return query.length === 0 ? pathOf(route) : `${pathOf(route)}?${query.join('&')}`
}

/** AuthZEN receivers ignore unknown members and answer every invalid request with 400. */
export const isAuthzen = ({ template }: Pick<Route, 'template'>) => template.startsWith('/access/v1/')

/** What takes bytes and not JSON. */
export const isUpload = ({ operation }: Pick<Route, 'operation'>) =>
  operation.requestBody !== undefined && operation.requestBody.content['application/json'] === undefined

/** A body that a route takes, or undefined where it takes none. */
export const sampleBodyOf = (document: Document, { operation }: Route): unknown => {
  const schema = operation.requestBody?.content['application/json']?.schema
  return schema && sampleOf(document, schema)
}
