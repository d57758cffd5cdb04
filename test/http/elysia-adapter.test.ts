import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { type AnyElysia, Elysia } from 'elysia'
import elysiaPackage from 'elysia/package.json'
import { createApp } from '../../src/app.ts'
import { Fault } from '../../src/fault.ts'
import {
  adapter,
  admitBy,
  contextSlot,
  elysiaVersion,
  headResponse,
  inputHook,
  resolved,
} from '../../src/http/elysia-adapter.ts'
import { createInputReader, type Gate } from '../../src/http/input.ts'
import { closed, t } from '../../src/http/schema-types.ts'
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

describe('input', () => {
  const context = {
    requestId: 'r',
    contentLength: 11,
    deadline: createDeadlines(systemClock)(60_000),
    authorization: null,
    request: new Request('http://localhost/'),
    addressOf: () => '192.0.2.1',
    arrivedMs: 0,
    route: undefined,
  }
  const schema = closed({ count: t.Integer() })
  const appWith = (gate: Gate | undefined) =>
    new Elysia({ adapter })
      .decorate({ context })
      .onError(({ error }) => Response.json(error instanceof Fault ? error.code : String(error)))
      .macro({ admitted: (_: true) => ({ introspect: gate === undefined ? () => {} : admitBy(gate) }) })
      .post('/', ({ body: read }) => Response.json(read), {
        admitted: true,
        ...inputHook(createInputReader({ body: schema }), false),
      })
  const post = async (gate: Gate | undefined, body: string) => {
    const headers = { 'content-type': 'application/json', 'content-length': String(body.length) }
    const request = new Request('http://localhost/', { method: 'POST', headers, body })
    const answer = await appWith(gate).handle(request)
    return { answer: await answer.json(), isRead: request.bodyUsed }
  }

  test('is read by a transform, which adds it to the context', async () => {
    expect(await post(undefined, '{"count":1}')).toEqual({ answer: { count: 1 }, isRead: true })
  })

  test('is not read for a caller whom the gate refuses, which a macro adds to the route', async () => {
    const refuse = () => {
      throw new Fault('identity.not_signed_in')
    }
    const gateOf = (admit: Gate['admit']): Gate => ({ admit, confirm: () => {} })
    expect(await post(gateOf(refuse), '{"count":1}')).toEqual({ answer: 'identity.not_signed_in', isRead: false })
    expect(
      await post(
        gateOf(async () => refuse()),
        '{"count":1}',
      ),
    ).toEqual({ answer: 'identity.not_signed_in', isRead: false })
  })

  test('that is refused has no part in the text of an error', async () => {
    expect(await post(undefined, '{"count":"1"}')).toEqual({ answer: 'request.invalid', isRead: true })
  })

  test('of no route is left to Elysia: it parses no body and has no schema of an input', () => {
    const left = app.routes.filter(({ hooks }) => {
      const isParsed = hooks.detail?.hide !== true && JSON.stringify(hooks.parse) !== '[{"fn":"none"}]'
      return isParsed || ['body', 'query', 'params', 'headers', 'cookie'].some((part) => hooks[part] !== undefined)
    })
    expect(left.map(({ method, path, hooks }) => `${method} ${path} ${JSON.stringify(hooks.parse)}`)).toEqual([])
    for (const { method, path } of app.routes)
      expect([path, compiled(method, path).includes('c.body=')]).toEqual([path, false])
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
    for (const part of ['c.query', 'c.headers', 'c.cookie', 'c.url=', 'parseQuery']) {
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

test('the context of every request and what its gate found are declared as members, whose values hooks set', () => {
  expect(Object.keys(app.decorator)).toEqual(['context', 'entry'])
})
