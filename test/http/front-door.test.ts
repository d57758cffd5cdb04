import { beforeEach, describe, expect, test } from 'bun:test'
import { Elysia } from 'elysia'
import { adapter, directRoutes } from '../../src/http/elysia-adapter.ts'
import { createFrontDoor, type Steps } from '../../src/http/front-door.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'

const url = 'http://velro.example/asked'
const startDeadline = createDeadlines(systemClock)
let refusedBefore: Error | undefined

const steps: Steps = {
  begin: (request, _authorization, route, arrivedMs = 0) => ({
    requestId: 'r',
    contentLength: undefined,
    deadline: startDeadline(1_000),
    authorization: 'a',
    request,
    addressOf: () => '192.0.2.1',
    arrivedMs,
    route,
  }),
  admit: () => {
    if (refusedBefore !== undefined) throw refusedBefore
  },
  answer: (returned) => new Response(`answered ${JSON.stringify(returned)}`),
  refuse: (code, error) => new Response(`refused ${code} ${(error as Error).message}`, { status: 400 }),
}
const general = () => new Response('general')

type Added = { one?: number; two?: number; order: string[] }
const hooked = new Elysia({ adapter })
  .macro({
    second: (_: true) => ({
      resolve: (given) => {
        const { one = 0, order } = given as unknown as Added
        order.push('resolve')
        return Promise.resolve({ two: one + 1 })
      },
    }),
  })
  .post('/asked', (given) => ({ ...(given as unknown as Added), request: undefined, context: undefined }), {
    second: true,
    parse: 'none',
    transform: (given) => {
      Object.assign(given, { one: 1, order: ['transform'] })
    },
  })

const doorTo = (handle: () => unknown) =>
  createFrontDoor({ routes: new Map([['POST /asked', { hooks: [], handle }]]), steps, general })
const signed = (method = 'POST') => new Request(url, { method, headers: { authorization: 'Bearer t' } })

beforeEach(() => {
  refusedBefore = undefined
})

test('a route of the front door runs its hooks in the order of Elysia, and then its handler', async () => {
  const door = createFrontDoor({ routes: directRoutes(hooked.routes, ['POST /asked']), steps, general })
  const text = await (await door(signed())).text()
  expect(JSON.parse(text.replace('answered ', ''))).toMatchObject({ one: 1, two: 2, order: ['transform', 'resolve'] })
})

test('a route that does not exist, or that has a hook of another kind, is no route of the front door', () => {
  expect(() => directRoutes(hooked.routes, ['GET /asked'])).toThrow('There is no route GET /asked')
  const { routes } = new Elysia({ adapter }).get('/asked', () => 'answer', { beforeHandle: () => {} })
  expect(() => directRoutes(routes, ['GET /asked'])).toThrow('There is no route GET /asked')
})

describe('a request takes the general way', () => {
  test.each([
    ['with another method', signed('PUT')],
    ['with a query', new Request(`${url}?`, { method: 'POST', headers: { authorization: 'Bearer t' } })],
    ['without a credential', new Request(url, { method: 'POST' })],
    ['to another path', new Request(`${url}/more`, { method: 'POST', headers: { authorization: 'Bearer t' } })],
  ])('%s', async (_, request) => {
    const answer = await doorTo(() => 'direct')(request)
    expect(await answer.text()).toBe('general')
  })
})

test('a route whose handler waits for nothing is answered without a promise', () => {
  expect(doorTo(() => 'direct')(signed())).toBeInstanceOf(Response)
})

test('a request that is refused before its route never reaches the handler', async () => {
  refusedBefore = new Error('no Host')
  let isHandled = false
  const handle = () => {
    isHandled = true
  }
  const answer = await doorTo(handle)(signed())
  expect([answer.status, await answer.text(), isHandled]).toEqual([400, 'refused UNKNOWN no Host', false])
})

test.each([
  [
    'throws',
    () => {
      throw new Error('failed')
    },
  ],
  ['rejects', () => Promise.reject(new Error('failed'))],
])('a handler that %s is answered with the problem of its error', async (_, handle) => {
  const answer = await doorTo(handle)(signed())
  expect([answer.status, await answer.text()]).toEqual([400, 'refused UNKNOWN failed'])
})

test('a hook that rejects is answered with the problem of its error, and the handler is not reached', async () => {
  const hook = { run: () => Promise.reject(new Error('not signed in')), add: () => {} }
  const route = { hooks: [hook], handle: () => 'direct' }
  const door = createFrontDoor({ routes: new Map([['POST /asked', route]]), steps, general })
  expect(await (await door(signed())).text()).toBe('refused UNKNOWN not signed in')
})
