import { afterAll, beforeAll, expect, test } from 'bun:test'
import { gunzipSync } from 'node:zlib'
import { createApp } from '../../src/app.ts'
import { startApp, type TestApp } from '../harness.ts'
import { type Document, nameOf, routesOf } from './black-box/document.ts'

let app: TestApp
beforeAll(async () => {
  app = await startApp()
})
afterAll(() => app.close())

test('the OpenAPI document names exactly the routes of the application', async () => {
  const document = (await (await fetch(`${app.baseUrl}/docs/json`)).json()) as Document
  const documented = routesOf(document).map(nameOf)
  // Pages for people are no part of the API.
  const built = createApp(app.services, () => '127.0.0.1')
    .routes.filter(({ path }) => !/^\/(?:docs|account|dashboard)/.test(path))
    .map(({ method, path }) => `${method} ${path.replaceAll(/:(\w+)/g, '{$1}')}`)
    // The same route by ids whose slashes are not encoded.
    .map((name) => name.replace('/models/*', '/models/{model_id}'))
  expect(built.length).toBeGreaterThan(20)
  expect(documented.sort()).toEqual([...new Set(built)].sort())
})

test('the OpenAPI document is sent as gzip to clients that take it', async () => {
  const get = (headers: Record<string, string>) => fetch(`${app.baseUrl}/docs/json`, { headers, decompress: false })
  const plain = await get({ 'accept-encoding': 'gzip;q=0, br' })
  const text = Buffer.from(await plain.arrayBuffer())
  expect(plain.headers.get('content-encoding')).toBeNull()
  for (const encoding of ['gzip', 'br, GZIP;q=0.5', '*']) {
    const compressed = await get({ 'accept-encoding': encoding })
    expect([compressed.headers.get('content-encoding'), compressed.headers.get('vary')]).toEqual([
      'gzip',
      'Accept-Encoding',
    ])
    expect(gunzipSync(await compressed.arrayBuffer()).equals(text)).toBe(true)
  }
})
