import { afterEach, beforeEach, describe, expect, test } from 'bun:test'
import { createOpenai, type OpenaiOptions } from '../../src/providers/openai.ts'
import type { Order } from '../../src/providers/provider.ts'
import {
  closeConnection,
  type FakeServer,
  file,
  hang,
  hangInBody,
  json,
  type Respond,
  startFakeServer,
  status,
  truncated,
  truncatedWithoutLength,
} from './fake-server.ts'
import { createAttempt, createProviderWorld, failureOf, imageOrder, opensAfter } from './world.ts'

const key = 'sk-hunter2'
const generate = 'POST /v1/images/generations'
const order: Order = {
  ...imageOrder,
  providerModel: 'gpt-image-2',
  parameters: { size: '1024x1024', quality: 'medium', output_format: 'png' },
}
const base64 = (text: string) => Buffer.from(text).toString('base64')
const bytes = (text: string) => new TextEncoder().encode(text)
const responseBody = {
  created: 1_713_833_628,
  data: [{ b64_json: base64('pixels') }, { b64_json: base64('pixels of b') }],
  usage: {},
}

let server: FakeServer
let world: ReturnType<typeof createProviderWorld>

const create = (options: Partial<OpenaiOptions> = {}) =>
  createOpenai({ ...world.given, key, baseUrl: `${server.baseUrl}/v1`, ...options })

beforeEach(async () => {
  server = await startFakeServer()
  world = createProviderWorld(server)
  server.on(generate, json(responseBody))
})
afterEach(() => server.close())

describe('an order at openai', () => {
  test('is one call whose response contains the images as base64', async () => {
    const { attempt, recorded, progress } = createAttempt()
    const outputs = await create().generate(order, attempt)
    expect(outputs).toEqual([{ bytes: bytes('pixels') }, { bytes: bytes('pixels of b') }])
    expect(recorded).toEqual([])
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

  test('whose response contains URLs fetches its outputs from allowed hosts only', async () => {
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

describe('a failed call to openai', () => {
  const unclear: [string, Respond][] = [
    ['500', status(500)],
    ['502', status(502)],
    ['504', status(504)],
    ['no answer', closeConnection],
    ['a truncated answer', truncated('application/json')],
    ['a truncated answer of no stated length', truncatedWithoutLength('application/json')],
  ]
  for (const [name, act] of unclear) {
    test(`after which the images may be paid for (${name}) is left to another attempt, and logged`, async () => {
      server.on(generate, act)
      const failure = await failureOf(create().generate(order, createAttempt().attempt))
      expect(failure).toMatchObject({ failure: 'unavailable', retryable: true })
      expect(server.count(generate)).toBe(1)
      expect(world.logged).toEqual([
        expect.objectContaining({ event: 'provider.order_unclear', generation_id: order.generationId }),
      ])
    })
  }

  test('that could not connect is retried, since the images cannot be paid for', async () => {
    const away = createOpenai({ ...world.given, key: 'hunter2', baseUrl: 'http://127.0.0.1:1' })
    const failure = await failureOf(away.generate(order, createAttempt().attempt))
    expect(failure).toMatchObject({ failure: 'unavailable', retryable: true })
    expect([world.pauses.length, world.logged]).toEqual([2, []])
  })

  const passing: [string, Respond][] = [
    ['429', status(429)],
    ['503', status(503)],
  ]
  for (const [name, act] of passing) {
    test(`that is transient (${name}) is retried; it fails after three tries`, async () => {
      server.on(generate, act, act, json(responseBody))
      expect((await create().generate(order, createAttempt().attempt)).length).toBe(2)
      server.on(generate, act)
      const failure = await failureOf(create().generate(order, createAttempt().attempt))
      expect(failure).toMatchObject({ failure: 'unavailable', retryable: true })
      expect(server.count(generate)).toBe(6)
    })
  }

  test('that is a refusal is final', async () => {
    for (const code of [400, 401, 403, 404]) {
      server.on(generate, json({ error: { code: 'moderation_blocked', message: 'No' } }, code))
      const failure = await failureOf(create().generate(order, createAttempt().attempt))
      expect(failure).toMatchObject({ failure: 'refused', retryable: false })
    }
    expect(server.count(generate)).toBe(4)
  })

  test('that timed out is not repeated within the attempt', async () => {
    for (const act of [hang, hangInBody('application/json')]) {
      server.on(generate, act)
      const failure = await failureOf(create({ callMs: 30 }).generate(order, createAttempt().attempt))
      expect(failure).toMatchObject({ failure: 'timeout', retryable: true })
    }
    expect(server.count(generate)).toBe(2)
  })

  const unusable: [string, Respond][] = [
    ['another content type', file(JSON.stringify(responseBody), 'text/html')],
    ['malformed JSON', file('{"data":[', 'application/json')],
    ['unexpected JSON', json({ data: 'hello' })],
    ['fewer images than ordered', json({ data: responseBody.data.slice(1) })],
    ['invalid base64', json({ data: [{ b64_json: '<html>' }, { b64_json: '' }] })],
    ['items without an image', json({ data: [null, {}] })],
    ['too large a body', json({ ...responseBody, more: 'x'.repeat(3_000) })],
  ]
  for (const [name, act] of unusable) {
    test(`with an invalid response (${name}) is not repeated, since it was paid for`, async () => {
      server.on(generate, act)
      const failing = create({ maxResponseBytes: 2_000 }).generate(order, createAttempt().attempt)
      expect(await failureOf(failing)).toMatchObject({ failure: 'invalid_output', retryable: false })
      expect(server.count(generate)).toBe(1)
    })
  }

  test('ends when the attempt is aborted and when the limit of the attempt is reached', async () => {
    server.on(generate, hang)
    const controller = new AbortController()
    const requested = server.nextRequest(generate)
    const failing = failureOf(create().generate(order, createAttempt({ signal: controller.signal }).attempt))
    await requested
    controller.abort()
    expect(await failing).toMatchObject({ failure: 'timeout' })
    const late = failureOf(create({ deadlineMs: 30 }).generate(order, createAttempt().attempt))
    expect(await late).toMatchObject({ failure: 'timeout', retryable: true })
  })

  test('that persists opens the circuit breaker of this provider only', async () => {
    server.on(generate, status(500))
    const openai = create(opensAfter(3, world.given))
    for (let times = 0; times < 3; times += 1) await failureOf(openai.generate(order, createAttempt().attempt))
    expect(openai.state()).toBe('tripped')
    expect(await failureOf(openai.generate(order, createAttempt().attempt))).toMatchObject({ failure: 'unavailable' })
    expect(server.count(generate)).toBe(3)
  })
})

test('no error and no log line contains the openai key', async () => {
  const thrown: unknown[] = []
  for (const act of [status(401), status(500), closeConnection, hang, file('no', 'text/html')]) {
    server.on(generate, act)
    thrown.push(
      await failureOf(create({ callMs: 50, ...opensAfter(1, world.given) }).generate(order, createAttempt().attempt)),
    )
  }
  expect(Bun.inspect([thrown, world.logged], { depth: 20 })).not.toContain('hunter2')
})
