import { afterAll, beforeAll, expect, test } from 'bun:test'
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
  const built = createApp(app.services, () => '127.0.0.1')
    .routes.filter(({ path }) => !path.startsWith('/docs'))
    .map(({ method, path }) => `${method} ${path.replaceAll(/:(\w+)/g, '{$1}')}`)
    // The same route by ids whose slashes are not encoded.
    .map((name) => name.replace('/models/*', '/models/{model_id}'))
  expect(built.length).toBeGreaterThan(20)
  expect(documented.sort()).toEqual([...new Set(built)].sort())
})
