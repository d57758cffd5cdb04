import { readFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { gzip } from 'node:zlib'
import { swagger } from '@elysiajs/swagger'
import { Elysia } from 'elysia'
import type { FaultCode } from '../fault.ts'
import { productVersion } from '../kit/version.ts'
import { addFaults, problem, securitySchemes } from './contract.ts'
import { contextSlot } from './elysia-adapter.ts'
import type { RequestContext } from './request-context.ts'
import type { Responder } from './responder.ts'

const tags = [
  { name: 'auth', description: 'Accounts, signing in, sessions' },
  { name: 'users', description: 'Administration of accounts, for operators' },
  { name: 'teams', description: 'Teams, their members and invitations' },
  { name: 'projects', description: 'Projects, and the teams they are shared with' },
  { name: 'generations', description: 'Requests to generate images and videos, their progress and lineage' },
  { name: 'media', description: 'Images and videos: metadata, bytes, uploads, signed links and share links' },
  { name: 'models', description: 'Available models, their parameters and prices' },
  { name: 'credits', description: 'Balance and ledger of the credits that pay for generations' },
  { name: 'authorization', description: 'Permission decisions: may this user do this to that resource?' },
  { name: 'service-keys', description: 'API keys of services' },
  { name: 'webhooks', description: 'Events that are sent to addresses of your own, for operators and admins of teams' },
  { name: 'authzen', description: 'Permission decisions by the OpenID AuthZEN Authorization API 1.0' },
  { name: 'performance', description: 'Metrics of one instance' },
  { name: 'security', description: 'Switches for operators' },
  { name: 'plain', description: 'Health checks, and the keys that verify access tokens' },
]

const page = `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Velro API</title>
    <link rel="icon" href="data:,">
    <link rel="stylesheet" href="/docs/swagger-ui.css">
  </head>
  <body>
    <div id="swagger-ui"></div>
    <script src="/docs/swagger-ui-bundle.js"></script>
    <script src="/docs/start.js"></script>
  </body>
</html>`

/** The token that somebody enters is kept until the page is closed, and not in localStorage. */
const start = `SwaggerUIBundle({
  url: '/docs/json', dom_id: '#swagger-ui', deepLinking: true, persistAuthorization: false,
  defaultModelsExpandDepth: 0, docExpansion: 'list', tryItOutEnabled: true, validatorUrl: null,
})`

/** Swagger UI has inline styles and images; every file is served from here. */
const pagePolicy =
  "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " +
  "script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"

const assets = {
  'swagger-ui.css': 'text/css; charset=utf-8',
  'swagger-ui-bundle.js': 'text/javascript; charset=utf-8',
} as const

const compress = promisify(gzip)

/** Reads and compresses a file at its first request, then serves it from memory. */
const createAssetReader = () => {
  const compressed = new Map<string, Promise<Uint8Array<ArrayBuffer>>>()
  return (name: keyof typeof assets): Promise<Uint8Array<ArrayBuffer>> => {
    const known = compressed.get(name)
    if (known !== undefined) return known
    const loading = readFile(new URL(import.meta.resolve(`swagger-ui-dist/${name}`))).then(
      async (text) => new Uint8Array(await compress(text)),
    )
    compressed.set(name, loading)
    return loading
  }
}

type Document = {
  readonly text: Uint8Array<ArrayBuffer>
  readonly compressed: Uint8Array<ArrayBuffer>
}

/** The document is made once: that takes as long as some hundred other requests. */
const createDocument = (make: () => unknown) => {
  let made: Promise<Document> | undefined
  const build = async (): Promise<Document> => {
    const text = new TextEncoder().encode(JSON.stringify(make()))
    return { text, compressed: new Uint8Array(await compress(text)) }
  }
  return (): Promise<Document> => {
    made ??= build()
    return made
  }
}

type Paths = Record<string, Record<string, { responses: Record<string, unknown> }>>

/** The document with the errors that no route describes itself, by the name of the route. */
const withFaults = <D extends { paths: Paths }>(document: D, faultsOf: FaultsOf): D => ({
  ...document,
  paths: Object.fromEntries(
    Object.entries(document.paths).map(([path, operations]) => [
      path,
      Object.fromEntries(
        Object.entries(operations).map(([method, operation]) => {
          const faults = faultsOf(`${method.toUpperCase()} ${path}`)
          return [method, { ...operation, responses: addFaults(operation.responses, faults) }]
        }),
      ),
    ]),
  ),
})

/** Whether a client takes gzip (RFC 9110 §12.5.3); one that gives it the weight 0 does not. */
const takesGzip = (request: Request): boolean =>
  /(?:^|[\s,])(?:gzip|\*)\s*(?:$|,|;(?!\s*q=0(?:\.0*)?\s*(?:$|,)))/i.test(request.headers.get('accept-encoding') ?? '')

type FaultsOf = (name: string) => readonly FaultCode[]

/** The OpenAPI document at /docs/json, and Swagger UI at /docs. `faultsOf`: errors that come from outside of the routes. */
export const docsRoutes = (responder: Responder, faultsOf: FaultsOf) => {
  const readAsset = createAssetReader()
  const hide = { detail: { hide: true } }
  const send = (request: Request, context: RequestContext, body: BodyInit, headers: Record<string, string>) =>
    responder.raw(body, {
      status: 200,
      requestId: context.requestId,
      origin: request.headers.get('origin'),
      headers: { 'cache-control': 'public, max-age=3600', ...headers },
    })
  const openApi = swagger({
    path: '/docs',
    excludeStaticFile: false,
    documentation: {
      openapi: '3.1.0',
      info: {
        title: 'Velro',
        version: productVersion,
        description: 'Authentication and authorization for an AI media platform.',
      },
      tags,
      components: {
        securitySchemes,
        schemas: { problem: JSON.parse(JSON.stringify(problem)) },
      },
    },
  })
  const made = openApi.routes.find(({ path }) => path === '/docs/json')?.handler
  if (typeof made !== 'function') throw new TypeError('@elysiajs/swagger has no route for the document')
  const findDocument = createDocument(() => withFaults((made as () => { paths: Paths })(), faultsOf))
  const routes = new Elysia().decorate(contextSlot).use(openApi)
  routes
    .get(
      '/docs/json',
      async ({ request, context }) => {
        const { text, compressed } = await findDocument()
        const isCompressed = takesGzip(request)
        return responder.raw(isCompressed ? compressed : text, {
          status: 200,
          requestId: context.requestId,
          origin: request.headers.get('origin'),
          headers: {
            vary: 'Accept-Encoding',
            'content-type': 'application/json',
            ...(isCompressed && { 'content-encoding': 'gzip' }),
          },
        })
      },
      hide,
    )
    .get(
      '/docs',
      ({ request, context }) =>
        send(request, context, page, {
          'content-type': 'text/html; charset=utf-8',
          'content-security-policy': pagePolicy,
        }),
      hide,
    )
    .get(
      '/docs/start.js',
      ({ request, context }) => send(request, context, start, { 'content-type': assets['swagger-ui-bundle.js'] }),
      hide,
    )
  for (const [name, type] of Object.entries(assets) as [keyof typeof assets, string][]) {
    routes.get(
      `/docs/${name}`,
      async ({ request, context }) =>
        send(request, context, await readAsset(name), { 'content-type': type, 'content-encoding': 'gzip' }),
      hide,
    )
  }
  return routes
}
