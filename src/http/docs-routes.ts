import { readFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { gzip } from 'node:zlib'
import { swagger } from '@elysiajs/swagger'
import { Elysia } from 'elysia'
import { problem, securitySchemes } from './contract.ts'
import { contextSlot } from './elysia-adapter.ts'
import type { RequestContext } from './request-context.ts'
import type { Responder } from './responder.ts'

const tags = [
  { name: 'auth', description: 'Accounts, sign-in, sessions' },
  { name: 'users', description: 'Accounts, for operators of the platform' },
  { name: 'teams', description: 'Who works together, and who may join' },
  { name: 'projects', description: 'Where work is kept and shared' },
  { name: 'generations', description: 'What was asked for, and what became of it' },
  { name: 'media', description: 'What came of it, and its bytes' },
  { name: 'models', description: 'What can be asked to generate, what it takes and what it costs' },
  { name: 'credits', description: 'What a generation is paid with' },
  { name: 'authorization', description: 'May this person do this to that thing?' },
  { name: 'service-keys', description: 'By which services ask on their own behalf' },
  { name: 'authzen', description: 'The same question as OpenID AuthZEN Authorization API 1.0 puts it' },
  { name: 'performance', description: 'What the server does, by its own counters' },
  { name: 'security', description: 'What operators of the platform switch' },
  { name: 'plain', description: 'For load balancers, monitors and verifiers' },
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

const start = `SwaggerUIBundle({
  url: '/docs/json', dom_id: '#swagger-ui', deepLinking: true, persistAuthorization: true,
  defaultModelsExpandDepth: 0, docExpansion: 'list', tryItOutEnabled: true, validatorUrl: null,
})`

/** Swagger UI brings its own styles and pictures; everything comes from this server. */
const pagePolicy =
  "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " +
  "script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"

const assets = {
  'swagger-ui.css': 'text/css; charset=utf-8',
  'swagger-ui-bundle.js': 'text/javascript; charset=utf-8',
} as const

const compress = promisify(gzip)

/** Read and compressed when first asked for, then kept. */
const createAssetReader = () => {
  const kept = new Map<string, Promise<Uint8Array<ArrayBuffer>>>()
  return (name: keyof typeof assets): Promise<Uint8Array<ArrayBuffer>> => {
    const known = kept.get(name)
    if (known !== undefined) return known
    const made = readFile(new URL(import.meta.resolve(`swagger-ui-dist/${name}`))).then(
      async (text) => new Uint8Array(await compress(text)),
    )
    kept.set(name, made)
    return made
  }
}

/** The OpenAPI document at /docs/json, and a page to read and try it at /docs. */
export const docsRoutes = (responder: Responder) => {
  const readAsset = createAssetReader()
  const hide = { detail: { hide: true } }
  const send = (request: Request, context: RequestContext, body: BodyInit, headers: Record<string, string>) =>
    responder.raw(body, {
      status: 200,
      requestId: context.requestId,
      origin: request.headers.get('origin'),
      headers: { 'cache-control': 'public, max-age=3600', ...headers },
    })
  const routes = new Elysia().decorate(contextSlot).use(
    swagger({
      path: '/docs',
      excludeStaticFile: false,
      documentation: {
        openapi: '3.1.0',
        info: {
          title: 'Velro',
          version: '0.1.0',
          description: 'Authentication and authorization for an AI media platform.',
        },
        tags,
        components: {
          securitySchemes,
          schemas: { problem: JSON.parse(JSON.stringify(problem)) },
        },
      },
    }),
  )
  routes
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
