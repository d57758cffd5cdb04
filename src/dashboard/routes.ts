import { readFile } from 'node:fs/promises'
import { Elysia } from 'elysia'
import { contextSlot } from '../http/elysia-adapter.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { Responder } from '../http/responder.ts'

/** Every file is served from here, so nothing else may be loaded or asked. Icon and canvas have data URLs. */
const pagePolicy =
  "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " +
  "script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"

const html = 'text/html; charset=utf-8'
const css = 'text/css; charset=utf-8'
const javascript = 'text/javascript; charset=utf-8'

const ownFile = (name: string) => new URL(`./page/${name}`, import.meta.url)
const packageFile = (name: string) => new URL(import.meta.resolve(name))
/** Files of another version never meet: those of this program are asked for each time, and the package is named by none. */
const notStored = 'no-store'
const stored = 'public, max-age=3600'

const files: Readonly<Record<string, { type: string; find: () => URL; cache: string }>> = {
  '/dashboard': { type: html, find: () => ownFile('index.html'), cache: notStored },
  '/dashboard/dashboard.css': { type: css, find: () => ownFile('dashboard.css'), cache: notStored },
  ...Object.fromEntries(
    ['main.js', 'api.js', 'charts.js', 'figures.js', 'words.js'].map((name) => [
      `/dashboard/${name}`,
      { type: javascript, find: () => ownFile(name), cache: notStored },
    ]),
  ),
  '/dashboard/uplot.js': { type: javascript, find: () => packageFile('uplot/dist/uPlot.esm.js'), cache: stored },
  '/dashboard/uplot.css': { type: css, find: () => packageFile('uplot/dist/uPlot.min.css'), cache: stored },
}

/**
 * The page at /dashboard, which shows operators the figures of all instances. It holds no data: everything it shows it asks of the
 * API with the token of who signed in there, which it keeps in memory alone.
 */
export const dashboardRoutes = (responder: Pick<Responder, 'raw'>) => {
  const read = new Map<string, Promise<Uint8Array<ArrayBuffer>>>()
  const contentOf = (path: string, find: () => URL): Promise<Uint8Array<ArrayBuffer>> => {
    const known = read.get(path)
    if (known !== undefined) return known
    const reading = readFile(find()).then((bytes) => new Uint8Array(bytes))
    read.set(path, reading)
    return reading
  }
  const routes = new Elysia().decorate(contextSlot)
  for (const [path, { type, find, cache }] of Object.entries(files)) {
    routes.get(
      path,
      async ({ request, context }: { request: Request; context: RequestContext }) =>
        responder.raw(request.method === 'HEAD' ? null : await contentOf(path, find), {
          status: 200,
          requestId: context.requestId,
          origin: request.headers.get('origin'),
          headers: { 'content-type': type, 'content-security-policy': pagePolicy, 'cache-control': cache },
        }),
      { detail: { hide: true } },
    )
  }
  return routes
}
