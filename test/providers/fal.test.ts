import { afterEach, beforeEach, describe, expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { registry } from '../../src/models/registry.ts'
import { createFal, type FalOptions } from '../../src/providers/fal.ts'
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

const key = 'id:hunter2'
const id = '764cabcf-b745-4b3e-ae38-1200304cf45b'
const app = '/fal-ai/flux'
const submit = 'POST /fal-ai/flux/schnell'
const poll = `GET ${app}/requests/${id}/status`
const result = `GET ${app}/requests/${id}`
const cancel = `PUT ${app}/requests/${id}/cancel`

let server: FakeServer
let world: ReturnType<typeof createProviderWorld>

const create = (options: Partial<FalOptions> = {}) =>
  createFal({ ...world.given, key, queueUrl: server.baseUrl, ...options })

/** A response of fal. Its URLs point to an address that must never be requested. */
const submitted = {
  status: 'IN_QUEUE',
  request_id: id,
  response_url: 'http://127.0.0.1:1/stolen',
  status_url: 'http://127.0.0.1:1/stolen/status',
  cancel_url: 'http://127.0.0.1:1/stolen/cancel',
  queue_position: 3,
}
const completed = json({ status: 'COMPLETED', request_id: id, metrics: { inference_time: 0.4 } })
const outputFile = (name: string) => ({
  url: `https://v3.fal.media/files/${name}.png`,
  content_type: 'image/png',
  width: 512,
})
const resultBody = {
  images: [outputFile('a'), outputFile('b')],
  seed: 7,
  has_nsfw_concepts: [false, false],
  prompt: 'a lighthouse',
}
const bytes = (text: string) => new TextEncoder().encode(text)

beforeEach(async () => {
  server = await startFakeServer()
  world = createProviderWorld(server)
  server.on(submit, json(submitted))
  server.on(poll, completed)
  server.on(result, json(resultBody))
  server.on(cancel, json({ status: 'CANCELLATION_REQUESTED' }, 202))
  server.on('GET /files/a.png', file('pixels of a', 'image/png'))
  server.on('GET /files/b.png', file('pixels of b', 'image/png'))
})
afterEach(() => server.close())

describe('an order at fal', () => {
  test('is submitted, recorded and polled until it is complete, then its files are fetched', async () => {
    server.on(
      poll,
      json({ status: 'IN_QUEUE', queue_position: 3 }, 202),
      json({ status: 'IN_QUEUE', queue_position: 0 }, 202),
      json({ status: 'IN_PROGRESS', logs: null }, 202),
      completed,
    )
    const { attempt, recorded, progress } = createAttempt()
    const outputs = await create().generate(imageOrder, attempt)
    expect(outputs).toEqual([{ bytes: bytes('pixels of a') }, { bytes: bytes('pixels of b') }])
    expect(recorded).toEqual([{ request_id: id }])
    expect(progress).toEqual([0.05, 0.2, 0.5, 0.8, 0.9, 1])
    expect(server.received[0]).toMatchObject({
      method: 'POST',
      url: '/fal-ai/flux/schnell',
      headers: { authorization: `Key ${key}`, 'content-type': 'application/json' },
      body: {
        prompt: 'a lighthouse at dusk',
        num_images: 2,
        image_size: 'square_hd',
        num_inference_steps: 4,
        seed: 7,
        output_format: 'png',
      },
    })
    expect(world.connections.map(({ host }) => host)).toEqual(['v3.fal.media', 'v3.fal.media'])
    for (const { url, headers } of server.received) {
      expect([url, headers['authorization']]).toEqual([url, url.startsWith('/files/') ? undefined : `Key ${key}`])
    }
  })

  test('with a reference image sends it as a data URI beside the parameters of its model', async () => {
    const model = registry.find(({ id }) => id === 'fal-ai/flux/dev/image-to-image')
    if (model === undefined) throw new Error('The model is not in the registry')
    const parameters = { strength: 0.6, num_inference_steps: 40, guidance_scale: 3.5, seed: 7, output_format: 'png' }
    expect(Object.keys(model.parameters).toSorted()).toEqual(Object.keys(parameters).toSorted())
    server.on('POST /fal-ai/flux/dev/image-to-image', json(submitted))
    const { attempt } = createAttempt()
    // A view into a larger buffer: nothing else of the buffer may be sent.
    const reference = { bytes: bytes('before|picture|after').subarray(7, 14), contentType: 'image/webp' }
    const outputs = await create().generate(
      { ...imageOrder, providerModel: model.provider_model, parameters, reference },
      attempt,
    )
    expect(outputs).toHaveLength(2)
    expect(server.received[0]?.body).toEqual({
      prompt: 'a lighthouse at dusk',
      num_images: 2,
      image_url: `data:image/webp;base64,${Buffer.from('picture').toString('base64')}`,
      ...parameters,
    })
    expect(server.count(poll)).toBe(1)
  })

  test('is recorded before it is first polled', async () => {
    const { attempt } = createAttempt()
    const seen: number[] = []
    await create().generate(imageOrder, {
      ...attempt,
      recordRemoteOrder: async () => void seen.push(server.count(poll)),
    })
    expect(seen).toEqual([0])
  })

  test('that cannot be recorded is cancelled and never polled', async () => {
    const lost = new Error('the lease is lost')
    const { attempt } = createAttempt()
    const failure = await failureOf(
      create().generate(imageOrder, { ...attempt, recordRemoteOrder: () => Promise.reject(lost) }),
    )
    expect(failure).toMatchObject({ failure: 'failed', retryable: true, cause: lost })
    expect([server.count(cancel), server.count(poll)]).toEqual([1, 0])
  })

  test('of a video sends its duration and the negative prompt', async () => {
    const path = '/fal-ai/kling-video'
    const order: Order = {
      ...imageOrder,
      kind: 'video',
      providerModel: 'fal-ai/kling-video/v2/master/text-to-video',
      negativePrompt: 'blur',
      parameters: { aspect_ratio: '16:9', cfg_scale: 0.5 },
      outputs: 1,
    }
    server.on('POST /fal-ai/kling-video/v2/master/text-to-video', json(submitted))
    server.on(`GET ${path}/requests/${id}/status`, completed)
    const file_size = bytes('frames').length
    const video = { url: 'https://v3.fal.media/files/c.mp4', content_type: 'video/mp4', file_name: 'c.mp4', file_size }
    server.on(`GET ${path}/requests/${id}`, json({ video }))
    server.on('GET /files/c.mp4', file('frames', 'video/mp4'))
    expect(await create().generate(order, createAttempt().attempt)).toEqual([{ bytes: bytes('frames') }])
    expect(server.received[0]?.body).toEqual({
      prompt: 'a lighthouse at dusk',
      negative_prompt: 'blur',
      duration: '5',
      aspect_ratio: '16:9',
      cfg_scale: 0.5,
    })

    const attemptOnce = () => failureOf(create().generate(order, createAttempt().attempt))
    server.on('GET /files/c.mp4', file('pixels', 'image/png'))
    expect(await attemptOnce()).toMatchObject({ failure: 'invalid_output', retryable: false })
    for (const none of [{}, { video: null }, { video: [video] }, { images: [video] }, { video: { url: 7 } }]) {
      server.on(`GET ${path}/requests/${id}`, json(none))
      expect([none, await attemptOnce()]).toMatchObject([none, { failure: 'invalid_output' }])
    }
  })

  test('of each fal model in the registry is submitted to the path of that model', async () => {
    for (const { provider, provider_model, kind } of registry) {
      if (provider !== 'fal') continue
      server.received.length = 0
      server.on(`POST /${provider_model}`, status(422))
      const order: Order = { ...imageOrder, providerModel: provider_model, kind }
      await failureOf(create().generate(order, createAttempt().attempt))
      expect(server.received.map(({ url }) => url)).toEqual([`/${provider_model}`])
    }
  })

  test('is polled at growing intervals', async () => {
    const waiting = Array.from({ length: 8 }, () => json({ status: 'IN_QUEUE', queue_position: 1 }, 202))
    server.on(poll, ...waiting, completed)
    await create({ firstPollMs: 100, maxPollMs: 400 }).generate(imageOrder, createAttempt().attempt)
    expect(world.pauses).toEqual([100, 150, 225, 337.5, 400, 400, 400, 400])
  })
})

describe('a remote order recorded by an earlier attempt', () => {
  test('is resumed and not placed again', async () => {
    const { attempt, recorded } = createAttempt({ remoteOrder: { request_id: id } })
    expect((await create().generate(imageOrder, attempt)).length).toBe(2)
    expect([server.count(submit), recorded]).toEqual([0, []])
  })

  test('is placed again when fal no longer knows the request or its result', async () => {
    const old = '00000000-0000-4000-8000-000000000000'
    for (const known of [false, true]) {
      if (known) server.on(`GET ${app}/requests/${old}/status`, completed)
      const { attempt, recorded } = createAttempt({ remoteOrder: { request_id: old } })
      expect((await create().generate(imageOrder, attempt)).length).toBe(2)
      expect(recorded).toEqual([{ request_id: id }])
    }
    expect(server.count(submit)).toBe(2)
  })

  test('is used in a URL only when it is a valid request id', async () => {
    for (const remoteOrder of [null, id, {}, { request_id: '../../other' }, { request_id: 'a/b' }, { request_id: 7 }]) {
      server.received.length = 0
      await create().generate(imageOrder, createAttempt({ remoteOrder }).attempt)
      expect(server.received[0]?.url).toBe('/fal-ai/flux/schnell')
    }
  })

  test('is kept while fal cannot be reached and cleared when the model failed', async () => {
    const remoteOrder = { request_id: id }
    server.on(poll, closeConnection)
    const unreached = createAttempt({ remoteOrder })
    expect(await failureOf(create().generate(imageOrder, unreached.attempt))).toMatchObject({ failure: 'unavailable' })
    expect(unreached.recorded).toEqual([])

    server.on(poll, completed)
    server.on(result, status(500))
    const failed = createAttempt({ remoteOrder })
    expect(await failureOf(create().generate(imageOrder, failed.attempt))).toMatchObject({
      failure: 'failed',
      retryable: true,
    })
    expect(failed.recorded).toEqual([null])
    expect(server.count(cancel)).toBe(0)
  })
})

describe('cancelling a remote order', () => {
  const cancelOrder = (remoteOrder: unknown = { request_id: id }) =>
    create({ cancelMs: 50 }).cancel?.(imageOrder.providerModel, remoteOrder)

  test('addresses it by the recorded request id', async () => {
    await cancelOrder()
    expect(server.received.map(({ method, url, headers }) => [method, url, headers['authorization']])).toEqual([
      ['PUT', `${app}/requests/${id}/cancel`, `Key ${key}`],
    ])
  })

  test('resolves when the request is complete, unknown to fal or was never recorded', async () => {
    for (const gone of [400, 404, 410]) {
      server.on(cancel, status(gone))
      await cancelOrder()
    }
    for (const remoteOrder of [null, {}, { request_id: '../x' }, 'x']) await cancelOrder(remoteOrder)
    expect(server.count(cancel)).toBe(3)
  })

  test('throws when fal does not accept it, so that it can be tried again', async () => {
    for (const act of [status(401), status(429), status(500), hang, closeConnection]) {
      server.on(cancel, act)
      await failureOf(cancelOrder() as Promise<unknown>)
    }
    expect(server.count(cancel)).toBe(5)
  })
})

describe('an attempt that ends before its order', () => {
  const begin = async (deadlineMs?: FalOptions['deadlineMs']) => {
    server.on(poll, json({ status: 'IN_PROGRESS' }, 202))
    const controller = new AbortController()
    const created = createAttempt({ signal: controller.signal })
    const polled = server.nextRequest(poll)
    const failing = failureOf(create(deadlineMs && { deadlineMs }).generate(imageOrder, created.attempt))
    await polled
    return { ...created, controller, failing }
  }

  test('by an abort leaves the recorded order to be resumed or cancelled', async () => {
    const { controller, failing, recorded } = await begin()
    controller.abort(new Error('over'))
    expect(await failing).toMatchObject({ failure: 'timeout' })
    expect([server.count(cancel), recorded]).toEqual([0, [{ request_id: id }]])
  })

  test('by its time limit cancels the order and clears the record', async () => {
    const { failing, recorded } = await begin({ image: 400, video: 400 })
    expect(await failing).toMatchObject({ failure: 'timeout', retryable: true })
    expect([server.count(cancel), recorded]).toEqual([1, [{ request_id: id }, null]])
  })

  test('during the submission still waits for the request id and records it', async () => {
    let answer = () => {}
    server.on(submit, (response, received) => {
      answer = () => json(submitted)(response, received)
    })
    const controller = new AbortController()
    const { attempt, recorded } = createAttempt({ signal: controller.signal })
    const requested = server.nextRequest(submit)
    const failing = failureOf(create().generate(imageOrder, attempt))
    await requested
    const reason = new Error('over')
    controller.abort(reason)
    answer()
    expect(await failing).toMatchObject({ failure: 'timeout', cause: reason })
    expect(recorded).toEqual([{ request_id: id }])
    expect([server.count(submit), server.count(cancel), server.count(poll)]).toEqual([1, 0, 0])
  })

  test('during the submission waits for the request id no longer than its limit and submits no other order', async () => {
    server.on(submit, hang)
    const controller = new AbortController()
    const requested = server.nextRequest(submit)
    const failing = failureOf(
      create({ cancelMs: 20 }).generate(imageOrder, createAttempt({ signal: controller.signal }).attempt),
    )
    await requested
    controller.abort()
    expect(await failing).toMatchObject({ failure: 'timeout' })

    server.on(submit, closeConnection)
    const pausing = new AbortController()
    const wait = async (_ms: number, signal: AbortSignal) => {
      pausing.abort()
      signal.throwIfAborted()
    }
    await failureOf(create({ wait }).generate(imageOrder, createAttempt({ signal: pausing.signal }).attempt))
    expect(server.count(submit)).toBe(2)
  })

  test('does not wait for a cancellation that hangs', async () => {
    server.on(cancel, hang)
    server.on(poll, hang)
    const failing = failureOf(
      create({ cancelMs: 20, deadlineMs: { image: 100, video: 100 } }).generate(imageOrder, createAttempt().attempt),
    )
    expect(await failing).toMatchObject({ failure: 'timeout' })
    expect(server.count(cancel)).toBe(1)
  })

  test('before it starts submits nothing', async () => {
    const { attempt } = createAttempt({ signal: AbortSignal.abort() })
    expect(await failureOf(create().generate(imageOrder, attempt))).toMatchObject({ failure: 'timeout' })
    expect(server.received).toEqual([])
  })
})

describe('a failed call to fal', () => {
  const transient: [name: string, act: Respond, submissions: number][] = [
    ['429', status(429), 3],
    ['500', status(500), 1],
    ['502', status(502), 1],
    ['503', status(503), 3],
    ['504', status(504), 1],
    ['no answer', closeConnection, 1],
    ['a truncated answer', truncated('application/json'), 1],
    ['a truncated answer of no stated length', truncatedWithoutLength('application/json'), 1],
  ]
  for (const [name, act, submissions] of transient) {
    test(`that is transient (${name}) is retried at every step, but an order only where it was not placed`, async () => {
      for (const step of [submit, poll, result]) {
        const good = step === submit ? json(submitted) : step === poll ? completed : json(resultBody)
        if (step !== submit || submissions === 3) server.on(step, act, act, good)
        else server.on(step, good)
      }
      const atFile = name.startsWith('a truncated') ? truncated('image/png') : act
      server.on('GET /files/a.png', atFile, atFile, file('pixels of a', 'image/png'))
      const outputs = await create(opensAfter(100, world.given)).generate(imageOrder, createAttempt().attempt)
      expect(outputs.length).toBe(2)
      expect([submit, poll, result, 'GET /files/a.png'].map(server.count)).toEqual([submissions, 3, 3, 3])
      // `random` returns 0.5 here: the pauses are half of a bound that doubles.
      expect(world.pauses.slice(0, 2)).toEqual([250, 500])
    })

    test(`that persists (${name}) fails after ${submissions} submissions, and an order that may be placed is logged`, async () => {
      server.on(submit, act)
      const failure = await failureOf(create().generate(imageOrder, createAttempt().attempt))
      expect(failure).toMatchObject({ failure: 'unavailable', retryable: true })
      expect(server.count(submit)).toBe(submissions)
      const unclear = { event: 'provider.order_unclear', provider: 'fal', generation_id: imageOrder.generationId }
      expect(world.logged).toEqual(submissions === 3 ? [] : [expect.objectContaining(unclear)])
    })
  }

  for (const code of [400, 401, 402, 403, 404, 409, 413, 422]) {
    test(`that is a refusal (${code}) is final`, async () => {
      server.on(submit, json({ detail: [{ type: 'content_policy_violation' }] }, code))
      expect(await failureOf(create().generate(imageOrder, createAttempt().attempt))).toMatchObject({
        failure: 'refused',
        retryable: false,
      })
      expect(server.count(submit)).toBe(1)
    })
  }

  test('that is a refusal by the model or by its safety checker is final', async () => {
    server.on(result, json({ detail: [{ type: 'content_policy_violation' }] }, 422))
    const refused = { failure: 'refused', retryable: false }
    expect(await failureOf(create().generate(imageOrder, createAttempt().attempt))).toMatchObject(refused)
    server.on(result, json({ ...resultBody, has_nsfw_concepts: [false, true] }))
    expect(await failureOf(create().generate(imageOrder, createAttempt().attempt))).toMatchObject(refused)
    expect(world.connections).toEqual([])
  })

  test('is retried after the Retry-After of its response, unless that exceeds the budget', async () => {
    server.on(submit, status(429, { 'retry-after': '9' }), status(503, { 'retry-after': '0' }), json(submitted))
    await create().generate(imageOrder, createAttempt().attempt)
    expect(world.pauses).toEqual([9_000, 500])
    server.on(submit, status(429, { 'retry-after': '3600' }))
    const failure = await failureOf(create().generate(imageOrder, createAttempt().attempt))
    expect(failure).toMatchObject({ failure: 'unavailable', retryable: true })
    expect([world.pauses.length, server.count(submit)]).toEqual([2, 4])
  })

  test('that timed out is retried when it was a poll, and left to another attempt when it was a submission', async () => {
    for (const act of [hang, hangInBody('application/json')]) {
      server.on(submit, act)
      const failure = await failureOf(create({ callMs: 30 }).generate(imageOrder, createAttempt().attempt))
      expect(failure).toMatchObject({ failure: 'timeout', retryable: true })
      server.on(submit, json(submitted))
      server.on(poll, act, completed)
      expect((await create({ callMs: 400 }).generate(imageOrder, createAttempt().attempt)).length).toBe(2)
    }
    expect(server.count(submit)).toBe(4)
  })

  const invalid: [string, Respond][] = [
    ['another content type', file('{}', 'text/html')],
    ['no content type', (response) => void response.writeHead(200).end('{}')],
    ['malformed JSON', file('{"request_id":', 'application/json')],
    ['unexpected JSON', json(['hello'])],
    ['an empty body', file('', 'application/json')],
    ['too large a body', file(`"${'x'.repeat(1_100_000)}"`, 'application/json')],
    ['an invalid request id', json({ request_id: '../../other' })],
  ]
  for (const [name, act] of invalid) {
    test(`with an invalid response (${name}) is not retried`, async () => {
      for (const step of [submit, poll, result]) {
        server.on(submit, json(submitted))
        server.on(poll, completed)
        const before = server.count(step)
        server.on(step, act)
        const failure = await failureOf(create().generate(imageOrder, createAttempt().attempt))
        expect(failure).toMatchObject({ failure: 'invalid_output', retryable: true })
        expect(server.count(step) - before).toBe(1)
      }
    })
  }

  test('that is a redirect is not followed, since the key is for one origin', async () => {
    server.on(submit, status(307, { location: '/elsewhere' }))
    const failure = await failureOf(create().generate(imageOrder, createAttempt().attempt))
    expect(failure).toMatchObject({ failure: 'failed', retryable: false })
    expect(server.received.length).toBe(1)
  })

  test('that returns fewer images than ordered fails, and the order stays recorded, so that no other is paid for', async () => {
    server.on(result, json({ images: [outputFile('a')] }))
    const { attempt, recorded } = createAttempt()
    expect(await failureOf(create().generate(imageOrder, attempt))).toMatchObject({ failure: 'invalid_output' })
    expect(recorded).toEqual([{ request_id: id }])
  })
})

describe('an output of fal', () => {
  const from = (url: string) => server.on(result, json({ images: [{ url }, outputFile('b')] }))

  test('at a loopback, private or cloud metadata address is refused before any connection', async () => {
    world.names['trap.fal.media'] = ['10.0.0.1']
    world.names['meta.fal.media'] = ['169.254.169.254']
    for (const url of [
      'https://127.0.0.1/a.png',
      'https://169.254.169.254/latest/meta-data/',
      'https://[::1]/a.png',
      'http://v3.fal.media/a.png',
      'https://evil.example/a.png',
      'https://trap.fal.media/a.png',
      'https://meta.fal.media/a.png',
      'data:image/png;base64,AAAA',
    ]) {
      from(url)
      const failure = await failureOf(create().generate(imageOrder, createAttempt().attempt))
      expect([url, failure.failure, failure.retryable]).toEqual([url, 'invalid_output', false])
    }
    expect(world.connections).toEqual([])
  })

  test('that redirects to such an address is refused before that connection', async () => {
    from('https://v3.fal.media/away')
    server.on('GET /away', status(302, { location: 'https://169.254.169.254/' }))
    expect(await failureOf(create().generate(imageOrder, createAttempt().attempt))).toMatchObject({
      failure: 'invalid_output',
    })
    expect(world.connections).toEqual([{ host: 'v3.fal.media', addresses: ['93.184.215.14'] }])
  })

  const rejected: [string, Respond][] = [
    ['of another type', file('<html>', 'text/html')],
    ['too large', file(new Uint8Array(2_000), 'image/png')],
    ['missing', status(404)],
  ]
  for (const [name, act] of rejected) {
    test(`that is ${name} is refused`, async () => {
      server.on('GET /files/a.png', act)
      const failure = await failureOf(create({ maxOutputBytes: 1_000 }).generate(imageOrder, createAttempt().attempt))
      expect(failure).toMatchObject({ failure: 'invalid_output', retryable: false })
      expect(server.count('GET /files/a.png')).toBe(1)
    })
  }

  test('that is empty is refused, and the order stays recorded, so that no other is paid for', async () => {
    server.on('GET /files/a.png', file('', 'image/png'))
    const { attempt, recorded } = createAttempt()
    expect(await failureOf(create().generate(imageOrder, attempt))).toMatchObject({
      failure: 'invalid_output',
      retryable: true,
    })
    expect(recorded).toEqual([{ request_id: id }])
  })

  test('that cannot be fetched now is left to another attempt, which resumes the order', async () => {
    for (const [act, failure] of [
      [status(503), 'unavailable'],
      [truncated('image/png'), 'unavailable'],
      [hang, 'timeout'],
    ] as const) {
      server.on('GET /files/a.png', act)
      const { attempt, recorded } = createAttempt()
      const failed = await failureOf(create({ fetchMs: 200 }).generate(imageOrder, attempt))
      expect(failed).toMatchObject({ failure, retryable: true })
      expect(recorded).toEqual([{ request_id: id }])
    }
    expect(server.count('GET /files/a.png')).toBe(9)
  })
})

describe('the circuit breaker of fal', () => {
  test('opens after consecutive failures, lets one probe through at each interval, and closes when a probe succeeds', async () => {
    const clock = manualClock()
    const fal = create({ clock, ...opensAfter(4, { ...world.given, clock }) })
    const attemptOnce = () => failureOf(fal.generate(imageOrder, createAttempt().attempt))
    server.on(submit, status(503))
    await attemptOnce()
    expect(fal.state()).toBe('up')
    expect(await attemptOnce()).toMatchObject({ failure: 'unavailable', retryable: true })
    expect([fal.state(), server.count(submit)]).toEqual(['tripped', 4])

    expect(await attemptOnce()).toMatchObject({ failure: 'unavailable', retryable: true })
    clock.advance(29_999)
    await attemptOnce()
    expect(server.count(submit)).toBe(4)
    clock.advance(1)
    await attemptOnce()
    expect([fal.state(), server.count(submit)]).toEqual(['tripped', 5])

    server.on(submit, json(submitted))
    clock.advance(30_000)
    expect((await fal.generate(imageOrder, createAttempt().attempt)).length).toBe(2)
    expect(fal.state()).toBe('up')
    expect(world.logged).toMatchObject([
      { event: 'breaker.opened', breaker: 'provider.fal' },
      { event: 'breaker.closed', breaker: 'provider.fal' },
    ])
  })

  test('does not count refusals, rate limits, and failures of a model or of its files', async () => {
    const fal = create(opensAfter(1, world.given))
    const attemptOnce = () => failureOf(fal.generate(imageOrder, createAttempt().attempt))
    server.on(submit, status(422))
    await attemptOnce()
    server.on(submit, status(429))
    await attemptOnce()
    server.on(submit, json(submitted))
    server.on(result, status(500))
    await attemptOnce()
    server.on(result, json(resultBody))
    server.on('GET /files/a.png', status(500))
    await attemptOnce()
    expect(fal.state()).toBe('up')
  })
})

test('no error and no log line contains the fal key', async () => {
  const thrown: unknown[] = []
  for (const act of [
    status(401),
    status(500),
    closeConnection,
    hang,
    file('no', 'text/html'),
    truncated('application/json'),
  ]) {
    server.on(submit, act)
    thrown.push(
      await failureOf(
        create({ callMs: 50, ...opensAfter(1, world.given) }).generate(imageOrder, createAttempt().attempt),
      ),
    )
  }
  expect(Bun.inspect([thrown, world.logged], { depth: 20 })).not.toContain('hunter2')
})
