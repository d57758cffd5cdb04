import { afterEach, beforeEach, describe, expect, test } from 'bun:test'
import { createOpenai, type OpenaiOptions } from '../../src/providers/openai.ts'
import type { Order } from '../../src/providers/provider.ts'
import {
  type Act,
  cut,
  cutWithoutLength,
  drop,
  type FakeServer,
  file,
  hang,
  hangWithin,
  json,
  startFakeServer,
  status,
} from './fake-server.ts'
import { createAttempt, createSurroundings, failureOf, imageOrder } from './world.ts'

const key = 'sk-hunter2'
const generate = 'POST /v1/images/generations'
const order: Order = {
  ...imageOrder,
  providerModel: 'gpt-image-2',
  parameters: { size: '1024x1024', quality: 'medium', output_format: 'png' },
}
const base64 = (text: string) => Buffer.from(text).toString('base64')
const bytes = (text: string) => new TextEncoder().encode(text)
const made = {
  created: 1_713_833_628,
  data: [{ b64_json: base64('pixels') }, { b64_json: base64('pixels of b') }],
  usage: {},
}

let server: FakeServer
let world: ReturnType<typeof createSurroundings>

const create = (options: Partial<OpenaiOptions> = {}) =>
  createOpenai({ ...world.given, key, baseUrl: `${server.baseUrl}/v1`, ...options })

beforeEach(async () => {
  server = await startFakeServer()
  world = createSurroundings(server)
  server.on(generate, json(made))
})
afterEach(() => server.close())

describe('an order', () => {
  test('is one call, answered with the pictures inside', async () => {
    const { attempt, notes, progress } = createAttempt()
    const outputs = await create().generate(order, attempt)
    expect(outputs).toEqual([{ bytes: bytes('pixels') }, { bytes: bytes('pixels of b') }])
    expect(notes).toEqual([])
    expect(progress).toEqual([0.5, 1])
    expect(server.received).toMatchObject([
      {
        headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
        body: {
          model: 'gpt-image-2',
          prompt: 'a lighthouse at dusk',
          n: 2,
          size: '1024x1024',
          quality: 'medium',
          output_format: 'png',
        },
      },
    ])
    expect(Object.keys(server.received[0]?.body as object).length).toBe(6)
  })

  test('answered with URLs has its files fetched from where that is allowed, and from nowhere else', async () => {
    server.on(generate, json({ data: [{ url: 'https://v3.fal.media/a.png' }, { b64_json: base64('pixels of b') }] }))
    server.on('GET /a.png', file('pixels', 'image/png'))
    expect(await create().generate(order, createAttempt().attempt)).toEqual([
      { bytes: bytes('pixels') },
      { bytes: bytes('pixels of b') },
    ])
    expect(server.received.at(-1)?.headers['authorization']).toBeUndefined()

    world.connections.length = 0
    const refused = { failure: 'invalid_output', retryable: false }
    const closed = create({ outputHosts: [] })
    expect(await failureOf(closed.generate(order, createAttempt().attempt))).toMatchObject(refused)
    world.names['v3.fal.media'] = ['127.0.0.1']
    expect(await failureOf(create().generate(order, createAttempt().attempt))).toMatchObject(refused)
    expect(world.connections).toEqual([])
  })
})

describe('trouble', () => {
  const passing: [string, Act][] = [
    ['429', status(429)],
    ['500', status(500)],
    ['503', status(503)],
    ['no answer', drop],
    ['a truncated answer', cut('application/json')],
    ['a truncated answer of no stated length', cutWithoutLength('application/json')],
  ]
  for (const [name, act] of passing) {
    test(`that passes (${name}) is not noticed; else it is told after three tries`, async () => {
      server.on(generate, act, act, json(made))
      expect((await create().generate(order, createAttempt().attempt)).length).toBe(2)
      server.on(generate, act)
      const failure = await failureOf(create().generate(order, createAttempt().attempt))
      expect(failure).toMatchObject({ failure: 'unavailable', retryable: true })
      expect(server.count(generate)).toBe(6)
    })
  }

  test('a refusal is final', async () => {
    for (const code of [400, 401, 403, 404]) {
      server.on(generate, json({ error: { code: 'moderation_blocked', message: 'No' } }, code))
      const failure = await failureOf(create().generate(order, createAttempt().attempt))
      expect(failure).toMatchObject({ failure: 'refused', retryable: false })
    }
    expect(server.count(generate)).toBe(4)
  })

  test('a hang is not ordered again within the attempt', async () => {
    for (const act of [hang, hangWithin('application/json')]) {
      server.on(generate, act)
      const failure = await failureOf(create({ callMs: 30 }).generate(order, createAttempt().attempt))
      expect(failure).toMatchObject({ failure: 'timeout', retryable: true })
    }
    expect(server.count(generate)).toBe(2)
  })

  const unusable: [string, Act][] = [
    ['another type', file(JSON.stringify(made), 'text/html')],
    ['no JSON', file('{"data":[', 'application/json')],
    ['other JSON', json({ data: 'hello' })],
    ['fewer pictures', json({ data: made.data.slice(1) })],
    ['pictures that are no base64', json({ data: [{ b64_json: '<html>' }, { b64_json: '' }] })],
    ['pictures that are nothing', json({ data: [null, {}] })],
    ['too much', json({ ...made, more: 'x'.repeat(3_000) })],
  ]
  for (const [name, act] of unusable) {
    test(`an answer of no use (${name}) is not asked for again`, async () => {
      server.on(generate, act)
      const failing = create({ maxResponseBytes: 2_000 }).generate(order, createAttempt().attempt)
      expect(await failureOf(failing)).toMatchObject({ failure: 'invalid_output', retryable: true })
      expect(server.count(generate)).toBe(1)
    })
  }

  test('an attempt ends with its signal, and with its own deadline', async () => {
    server.on(generate, hang)
    const controller = new AbortController()
    const asked = server.asked(generate)
    const failing = failureOf(create().generate(order, createAttempt({ signal: controller.signal }).attempt))
    await asked
    controller.abort()
    expect(await failing).toMatchObject({ failure: 'timeout' })
    const late = failureOf(create({ deadlineMs: 30 }).generate(order, createAttempt().attempt))
    expect(await late).toMatchObject({ failure: 'timeout', retryable: true })
  })

  test('that goes on trips a breaker of its own', async () => {
    server.on(generate, status(500))
    const openai = create({ failuresToTrip: 3 })
    await failureOf(openai.generate(order, createAttempt().attempt))
    expect(openai.state()).toBe('tripped')
    expect(await failureOf(openai.generate(order, createAttempt().attempt))).toMatchObject({ failure: 'unavailable' })
    expect(server.count(generate)).toBe(3)
  })
})

test('the key is in nothing that is thrown or logged', async () => {
  const thrown: unknown[] = []
  for (const act of [status(401), status(500), drop, hang, file('no', 'text/html')]) {
    server.on(generate, act)
    thrown.push(await failureOf(create({ callMs: 50, failuresToTrip: 1 }).generate(order, createAttempt().attempt)))
  }
  expect(Bun.inspect([thrown, world.logged], { depth: 20 })).not.toContain('hunter2')
})
