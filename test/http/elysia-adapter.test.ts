import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { type AnyElysia, Elysia } from 'elysia'
import { WebStandardAdapter } from 'elysia/adapter/web-standard'
import elysiaPackage from 'elysia/package.json'
import { createApp } from '../../src/app.ts'
import { adapter, contextSlot, elysiaVersion, headResponse, resolved } from '../../src/http/elysia-adapter.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { startApp, type TestApp } from '../harness.ts'

let service: TestApp
let app: AnyElysia
beforeAll(async () => {
  service = await startApp()
  app = createApp(service.services, () => '127.0.0.1')
})
afterAll(() => service.close())

/** The code that Elysia compiled for a route. */
const compiled = (method: string, path: string): string => {
  const route = app.routes.find((each) => each.method === method && each.path === path)
  if (route === undefined) throw new Error(`No route ${method} ${path}`)
  return route.compile().toString()
}

test('the installed Elysia is the version that the adapter was written for', () => {
  // Another version: read src/http/elysia-adapter.ts, run this file, and then change the version there.
  expect(elysiaPackage.version).toBe(elysiaVersion)
})

describe('a body parser given as code', () => {
  const context = { requestId: 'r', deadline: createDeadlines(systemClock)(60_000) }
  const post = (type: string, body: string) =>
    new Elysia({ adapter })
      .decorate({ context })
      .post('/', ({ body: read }) => Response.json(read), { parse: 'json' })
      .handle(new Request('http://localhost/', { method: 'POST', headers: { 'content-type': type }, body }))

  test('has a name for each parser of the web standard adapter, and no other', () => {
    const { parser } = WebStandardAdapter.composeHandler
    expect(Object.keys(adapter.composeHandler.parser).sort()).toEqual(Object.keys(parser).sort())
  })

  test('is injected into the compiled handler, which reads the body once and by it', () => {
    const code = compiled('POST', '/api/v1/authorization/check')
    expect(code.match(/c\.body=/g)).toHaveLength(1)
    expect(code).toContain('c.body=await readJson(c.request,c.context.deadline)')
  })

  test('gives the handler the JSON value', async () => {
    expect(await (await post('application/json', '{"a":[1]}')).json()).toEqual({ a: [1] })
  })

  test('refuses another media type, which the parsers of Elysia would read', async () => {
    const answer = await post('text/plain', 'text')
    expect([answer.status, await answer.text()]).toEqual([400, expect.stringContaining('Bad Request')])
  })
})

describe('the source of a hook', () => {
  const requestHandlerOf = (hooked: AnyElysia) => hooked.compile().fetch.toString()

  test('with a returned call makes every request await it', () => {
    const made = () => undefined
    const hooked = new Elysia({ adapter }).onRequest(() => {
      return made()
    })
    expect(requestHandlerOf(hooked)).toStartWith('async')
  })

  test('without a returned call makes no request await it, as in the application', () => {
    expect(requestHandlerOf(new Elysia({ adapter }).onRequest(() => {}))).toStartWith('function')
    expect(app.fetch.toString()).toStartWith('function')
  })

  test('names no part of the request that the routes do not use', () => {
    const code = compiled('POST', '/api/v1/authorization/check')
    for (const part of ['c.query', 'c.headers', 'c.cookie', 'c.route', 'c.url=', 'parseQuery']) {
      expect([part, code.includes(part)]).toEqual([part, false])
    }
  })

  test('that names the query has it parsed', () => {
    expect(compiled('GET', '/api/v1/teams')).toContain('c.query')
  })

  test('of a handler that waits for nothing is not awaited', () => {
    expect(compiled('GET', '/health')).toContain('let r=handler(c)')
    expect(compiled('GET', '/ready')).toContain('let r=await handler(c)')
  })
})

describe('what a resolve returns', () => {
  const answerOf = async (caller: { caller: string } | Promise<{ caller: string }>) => {
    const guarded = new Elysia({ adapter })
      .macro({ signedIn: (_: true) => ({ resolve: () => resolved(caller) }) })
      .get('/', ({ caller: entered }) => entered, { signedIn: true })
    return (await guarded.handle(new Request('http://localhost/'))).text()
  }

  test('is added to the context when it is a plain object', async () => {
    expect(await answerOf({ caller: 'ada' })).toBe('ada')
  })

  test('is awaited and added to the context when it is a promise', async () => {
    expect(await answerOf(Promise.resolve({ caller: 'ada' }))).toBe('ada')
  })
})

test('a response to HEAD has the length that it was given, and no body is read for it', async () => {
  const answer = await new Elysia({ adapter })
    .decorate(contextSlot)
    .get('/a/:b', () => headResponse(new Response(null, { headers: { 'x-own': 'kept' } }), 123_456_789_012))
    .handle(new Request('http://localhost/a/b', { method: 'HEAD' }))
  expect([answer.status, answer.headers.get('content-length')]).toEqual([200, '123456789012'])
  expect([answer.headers.get('x-own'), await answer.text()]).toEqual(['kept', ''])
})

test('the context of every request is declared as a member, whose value the request hook sets', () => {
  expect(Object.keys(app.decorator)).toEqual(['context'])
})
