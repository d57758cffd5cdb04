import { afterEach, beforeEach, describe, expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { registry } from '../../src/models/registry.ts'
import { createFal, type FalOptions } from '../../src/providers/fal.ts'
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

const key = 'id:hunter2'
const id = '764cabcf-b745-4b3e-ae38-1200304cf45b'
const app = '/fal-ai/flux'
const submit = 'POST /fal-ai/flux/schnell'
const look = `GET ${app}/requests/${id}/status`
const result = `GET ${app}/requests/${id}`
const cancel = `PUT ${app}/requests/${id}/cancel`

let server: FakeServer
let world: ReturnType<typeof createSurroundings>

const create = (options: Partial<FalOptions> = {}) =>
  createFal({ ...world.given, key, queueUrl: server.baseUrl, ...options })

/** As fal says it; the URLs lead to where nothing may be asked. */
const submitted = {
  status: 'IN_QUEUE',
  request_id: id,
  response_url: 'http://127.0.0.1:1/stolen',
  status_url: 'http://127.0.0.1:1/stolen/status',
  cancel_url: 'http://127.0.0.1:1/stolen/cancel',
  queue_position: 3,
}
const completed = json({ status: 'COMPLETED', request_id: id, metrics: { inference_time: 0.4 } })
const picture = (name: string) => ({
  url: `https://v3.fal.media/files/${name}.png`,
  content_type: 'image/png',
  width: 512,
})
const made = {
  images: [picture('a'), picture('b')],
  seed: 7,
  has_nsfw_concepts: [false, false],
  prompt: 'a lighthouse',
}
const bytes = (text: string) => new TextEncoder().encode(text)

beforeEach(async () => {
  server = await startFakeServer()
  world = createSurroundings(server)
  server.on(submit, json(submitted))
  server.on(look, completed)
  server.on(result, json(made))
  server.on(cancel, json({ status: 'CANCELLATION_REQUESTED' }, 202))
  server.on('GET /files/a.png', file('pixels of a', 'image/png'))
  server.on('GET /files/b.png', file('pixels of b', 'image/png'))
})
afterEach(() => server.close())

describe('an order', () => {
  test('is submitted, noted, looked at until it is complete, and its files are fetched', async () => {
    server.on(
      look,
      json({ status: 'IN_QUEUE', queue_position: 3 }, 202),
      json({ status: 'IN_QUEUE', queue_position: 0 }, 202),
      json({ status: 'IN_PROGRESS', logs: null }, 202),
      completed,
    )
    const { attempt, notes, progress } = createAttempt()
    const outputs = await create().generate(imageOrder, attempt)
    expect(outputs).toEqual([{ bytes: bytes('pixels of a') }, { bytes: bytes('pixels of b') }])
    expect(notes).toEqual([{ request_id: id }])
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

  test('by a reference has it inside, as a data URI, beside the parameters of its model', async () => {
    const model = registry.find(({ id }) => id === 'fal-ai/flux/dev/image-to-image')
    if (model === undefined) throw new Error('There is no such model')
    const parameters = { strength: 0.6, num_inference_steps: 40, guidance_scale: 3.5, seed: 7, output_format: 'png' }
    expect(Object.keys(model.parameters).toSorted()).toEqual(Object.keys(parameters).toSorted())
    server.on('POST /fal-ai/flux/dev/image-to-image', json(submitted))
    const { attempt } = createAttempt()
    // A part of something larger: nothing of the rest may be sent.
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
    expect(server.count(look)).toBe(1)
  })

  test('is written down before it is waited for', async () => {
    const { attempt } = createAttempt()
    const seen: number[] = []
    await create().generate(imageOrder, {
      ...attempt,
      recordRemoteOrder: async () => void seen.push(server.count(look)),
    })
    expect(seen).toEqual([0])
  })

  test('that cannot be written down is cancelled, and not waited for', async () => {
    const lost = new Error('the lease is lost')
    const { attempt } = createAttempt()
    const failure = await failureOf(
      create().generate(imageOrder, { ...attempt, recordRemoteOrder: () => Promise.reject(lost) }),
    )
    expect(failure).toMatchObject({ failure: 'failed', retryable: true, cause: lost })
    expect([server.count(cancel), server.count(look)]).toEqual([1, 0])
  })

  test('of a clip says how long it is, and what not to show', async () => {
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

    const make = () => failureOf(create().generate(order, createAttempt().attempt))
    server.on('GET /files/c.mp4', file('pixels', 'image/png'))
    expect(await make()).toMatchObject({ failure: 'invalid_output', retryable: false })
    for (const none of [{}, { video: null }, { video: [video] }, { images: [video] }, { video: { url: 7 } }]) {
      server.on(`GET ${path}/requests/${id}`, json(none))
      expect([none, await make()]).toMatchObject([none, { failure: 'invalid_output' }])
    }
  })

  test('of every model of the registry is sent where fal has it', async () => {
    for (const { provider, provider_model, kind } of registry) {
      if (provider !== 'fal') continue
      server.received.length = 0
      server.on(`POST /${provider_model}`, status(422))
      const order: Order = { ...imageOrder, providerModel: provider_model, kind }
      await failureOf(create().generate(order, createAttempt().attempt))
      expect(server.received.map(({ url }) => url)).toEqual([`/${provider_model}`])
    }
  })

  test('is looked at at growing intervals', async () => {
    const waiting = Array.from({ length: 8 }, () => json({ status: 'IN_QUEUE', queue_position: 1 }, 202))
    server.on(look, ...waiting, completed)
    await create({ firstPollMs: 100, maxPollMs: 400 }).generate(imageOrder, createAttempt().attempt)
    expect(world.pauses).toEqual([100, 150, 225, 337.5, 400, 400, 400, 400])
  })
})

describe('what an earlier attempt noted', () => {
  test('is gone on with, and not ordered again', async () => {
    const { attempt, notes } = createAttempt({ remoteOrder: { request_id: id } })
    expect((await create().generate(imageOrder, attempt)).length).toBe(2)
    expect([server.count(submit), notes]).toEqual([0, []])
  })

  test('is ordered again when fal does not know it any more, or has not kept its result', async () => {
    const old = '00000000-0000-4000-8000-000000000000'
    for (const known of [false, true]) {
      if (known) server.on(`GET ${app}/requests/${old}/status`, completed)
      const { attempt, notes } = createAttempt({ remoteOrder: { request_id: old } })
      expect((await create().generate(imageOrder, attempt)).length).toBe(2)
      expect(notes).toEqual([{ request_id: id }])
    }
    expect(server.count(submit)).toBe(2)
  })

  test('is used for no URL unless it is the name of a request', async () => {
    for (const remoteOrder of [null, id, {}, { request_id: '../../other' }, { request_id: 'a/b' }, { request_id: 7 }]) {
      server.received.length = 0
      await create().generate(imageOrder, createAttempt({ remoteOrder }).attempt)
      expect(server.received[0]?.url).toBe('/fal-ai/flux/schnell')
    }
  })

  test('is kept while fal cannot be reached, and forgotten when what it made is of no use', async () => {
    const remoteOrder = { request_id: id }
    server.on(look, drop)
    const unreached = createAttempt({ remoteOrder })
    expect(await failureOf(create().generate(imageOrder, unreached.attempt))).toMatchObject({ failure: 'unavailable' })
    expect(unreached.notes).toEqual([])

    server.on(look, completed)
    server.on(result, status(500))
    const failed = createAttempt({ remoteOrder })
    expect(await failureOf(create().generate(imageOrder, failed.attempt))).toMatchObject({
      failure: 'failed',
      retryable: true,
    })
    expect(failed.notes).toEqual([null])
    expect(server.count(cancel)).toBe(0)
  })
})

describe('an order that nobody waits for any more', () => {
  const noted = { request_id: id }
  const told = (remoteOrder: unknown = noted) =>
    create({ cancelMs: 50 }).cancel?.(imageOrder.providerModel, remoteOrder)

  test('is cancelled, by the name that was noted', async () => {
    await told()
    expect(server.received.map(({ method, url, headers }) => [method, url, headers['authorization']])).toEqual([
      ['PUT', `${app}/requests/${id}/cancel`, `Key ${key}`],
    ])
  })

  test('is left alone where it is over, or was never known', async () => {
    for (const gone of [400, 404, 410]) {
      server.on(cancel, status(gone))
      await told()
    }
    for (const remoteOrder of [null, {}, { request_id: '../x' }, 'x']) await told(remoteOrder)
    expect(server.count(cancel)).toBe(3)
  })

  test('that fal cannot be told of is a failure, so that it can be told again', async () => {
    for (const act of [status(401), status(429), status(500), hang, drop]) {
      server.on(cancel, act)
      await failureOf(told() as Promise<unknown>)
    }
    expect(server.count(cancel)).toBe(5)
  })
})

describe('an attempt that ends before the order', () => {
  const begin = async (deadlineMs?: FalOptions['deadlineMs']) => {
    server.on(look, json({ status: 'IN_PROGRESS' }, 202))
    const controller = new AbortController()
    const told = createAttempt({ signal: controller.signal })
    const looked = server.asked(look)
    const failing = failureOf(create(deadlineMs && { deadlineMs }).generate(imageOrder, told.attempt))
    await looked
    return { ...told, controller, failing }
  }

  test('leaves it to whoever goes on with it, or has it cancelled', async () => {
    const { controller, failing, notes } = await begin()
    controller.abort(new Error('over'))
    expect(await failing).toMatchObject({ failure: 'timeout' })
    expect([server.count(cancel), notes]).toEqual([0, [{ request_id: id }]])
  })

  test('has it cancelled and forgotten when it took longer than it may', async () => {
    const { failing, notes } = await begin({ image: 400, video: 400 })
    expect(await failing).toMatchObject({ failure: 'timeout', retryable: true })
    expect([server.count(cancel), notes]).toEqual([1, [{ request_id: id }, null]])
  })

  test('while it is submitted is told its name, so that it can be gone on with, or cancelled', async () => {
    let answer = () => {}
    server.on(submit, (response, received) => {
      answer = () => json(submitted)(response, received)
    })
    const controller = new AbortController()
    const { attempt, notes } = createAttempt({ signal: controller.signal })
    const asked = server.asked(submit)
    const failing = failureOf(create().generate(imageOrder, attempt))
    await asked
    const reason = new Error('over')
    controller.abort(reason)
    answer()
    expect(await failing).toMatchObject({ failure: 'timeout', cause: reason })
    expect(notes).toEqual([{ request_id: id }])
    expect([server.count(submit), server.count(cancel), server.count(look)]).toEqual([1, 0, 0])
  })

  test('while it is submitted waits no longer than it may for its name, and orders no other', async () => {
    server.on(submit, hang)
    const controller = new AbortController()
    const asked = server.asked(submit)
    const failing = failureOf(
      create({ cancelMs: 20 }).generate(imageOrder, createAttempt({ signal: controller.signal }).attempt),
    )
    await asked
    controller.abort()
    expect(await failing).toMatchObject({ failure: 'timeout' })

    server.on(submit, drop)
    const pausing = new AbortController()
    const wait = async (_ms: number, signal: AbortSignal) => {
      pausing.abort()
      signal.throwIfAborted()
    }
    await failureOf(create({ wait }).generate(imageOrder, createAttempt({ signal: pausing.signal }).attempt))
    expect(server.count(submit)).toBe(2)
  })

  test('does not wait for a fal that hangs', async () => {
    server.on(cancel, hang)
    server.on(look, hang)
    const failing = failureOf(
      create({ cancelMs: 20, deadlineMs: { image: 100, video: 100 } }).generate(imageOrder, createAttempt().attempt),
    )
    expect(await failing).toMatchObject({ failure: 'timeout' })
    expect(server.count(cancel)).toBe(1)
  })

  test('orders nothing when it ended before it began', async () => {
    const { attempt } = createAttempt({ signal: AbortSignal.abort() })
    expect(await failureOf(create().generate(imageOrder, attempt))).toMatchObject({ failure: 'timeout' })
    expect(server.received).toEqual([])
  })
})

describe('trouble', () => {
  const passing: [string, Act][] = [
    ['429', status(429)],
    ['500', status(500)],
    ['502', status(502)],
    ['503', status(503)],
    ['504', status(504)],
    ['no answer', drop],
    ['a truncated answer', cut('application/json')],
    ['a truncated answer of no stated length', cutWithoutLength('application/json')],
  ]
  for (const [name, act] of passing) {
    test(`that passes (${name}) is not noticed, at any step`, async () => {
      for (const step of [submit, look, result]) {
        const good = step === submit ? json(submitted) : step === look ? completed : json(made)
        server.on(step, act, act, good)
      }
      const atFile = name.startsWith('a truncated') ? cut('image/png') : act
      server.on('GET /files/a.png', atFile, atFile, file('pixels of a', 'image/png'))
      const outputs = await create({ failuresToTrip: 100 }).generate(imageOrder, createAttempt().attempt)
      expect(outputs.length).toBe(2)
      expect([submit, look, result, 'GET /files/a.png'].map(server.count)).toEqual([3, 3, 3, 3])
      // Half of what they may be, as chance has it here: from a bound that doubles.
      expect(world.pauses.slice(0, 2)).toEqual([250, 500])
    })

    test(`that does not pass (${name}) is not fought for long`, async () => {
      server.on(submit, act)
      const failure = await failureOf(create().generate(imageOrder, createAttempt().attempt))
      expect(failure).toMatchObject({ failure: 'unavailable', retryable: true })
      expect(server.count(submit)).toBe(3)
    })
  }

  for (const code of [400, 401, 402, 403, 404, 409, 413, 422]) {
    test(`a refusal (${code}) is final`, async () => {
      server.on(submit, json({ detail: [{ type: 'content_policy_violation' }] }, code))
      expect(await failureOf(create().generate(imageOrder, createAttempt().attempt))).toMatchObject({
        failure: 'refused',
        retryable: false,
      })
      expect(server.count(submit)).toBe(1)
    })
  }

  test('a refusal by the model, or by its safety checker, is final too', async () => {
    server.on(result, json({ detail: [{ type: 'content_policy_violation' }] }, 422))
    const refused = { failure: 'refused', retryable: false }
    expect(await failureOf(create().generate(imageOrder, createAttempt().attempt))).toMatchObject(refused)
    server.on(result, json({ ...made, has_nsfw_concepts: [false, true] }))
    expect(await failureOf(create().generate(imageOrder, createAttempt().attempt))).toMatchObject(refused)
    expect(world.connections).toEqual([])
  })

  test('to be left alone for a while is done as asked, unless there is no time for it', async () => {
    server.on(submit, status(429, { 'retry-after': '9' }), status(503, { 'retry-after': '0' }), json(submitted))
    await create().generate(imageOrder, createAttempt().attempt)
    expect(world.pauses).toEqual([9_000, 500])
    server.on(submit, status(429, { 'retry-after': '3600' }))
    const failure = await failureOf(create().generate(imageOrder, createAttempt().attempt))
    expect(failure).toMatchObject({ failure: 'unavailable', retryable: true })
    expect([world.pauses.length, server.count(submit)]).toEqual([2, 4])
  })

  test('a hang is waited for only so long; ordering again is left to another attempt, looking again is not', async () => {
    for (const act of [hang, hangWithin('application/json')]) {
      server.on(submit, act)
      const failure = await failureOf(create({ callMs: 30 }).generate(imageOrder, createAttempt().attempt))
      expect(failure).toMatchObject({ failure: 'timeout', retryable: true })
      server.on(submit, json(submitted))
      server.on(look, act, completed)
      expect((await create({ callMs: 400 }).generate(imageOrder, createAttempt().attempt)).length).toBe(2)
    }
    expect(server.count(submit)).toBe(4)
  })

  const unreadable: [string, Act][] = [
    ['another type', file('{}', 'text/html')],
    ['no type', (response) => void response.writeHead(200).end('{}')],
    ['no JSON', file('{"request_id":', 'application/json')],
    ['other JSON', json(['hello'])],
    ['nothing', file('', 'application/json')],
    ['too much', file(`"${'x'.repeat(1_100_000)}"`, 'application/json')],
    ['a name of a request that is none', json({ request_id: '../../other' })],
  ]
  for (const [name, act] of unreadable) {
    test(`an answer that cannot be read (${name}) is not asked for again`, async () => {
      for (const step of [submit, look, result]) {
        server.on(submit, json(submitted))
        server.on(look, completed)
        const before = server.count(step)
        server.on(step, act)
        const failure = await failureOf(create().generate(imageOrder, createAttempt().attempt))
        expect(failure).toMatchObject({ failure: 'invalid_output', retryable: true })
        expect(server.count(step) - before).toBe(1)
      }
    })
  }

  test('a redirect is not followed: the key is for one place', async () => {
    server.on(submit, status(307, { location: '/elsewhere' }))
    const failure = await failureOf(create().generate(imageOrder, createAttempt().attempt))
    expect(failure).toMatchObject({ failure: 'failed', retryable: false })
    expect(server.received.length).toBe(1)
  })

  test('fewer pictures than were ordered are none', async () => {
    server.on(result, json({ images: [picture('a')] }))
    const { attempt, notes } = createAttempt()
    expect(await failureOf(create().generate(imageOrder, attempt))).toMatchObject({ failure: 'invalid_output' })
    expect(notes).toEqual([{ request_id: id }, null])
  })
})

describe('an output', () => {
  const from = (url: string) => server.on(result, json({ images: [{ url }, picture('b')] }))

  test('that leads to this machine, its neighbours or its cloud is refused before any connection', async () => {
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

  test('that redirects there is refused there', async () => {
    from('https://v3.fal.media/away')
    server.on('GET /away', status(302, { location: 'https://169.254.169.254/' }))
    expect(await failureOf(create().generate(imageOrder, createAttempt().attempt))).toMatchObject({
      failure: 'invalid_output',
    })
    expect(world.connections).toEqual([{ host: 'v3.fal.media', addresses: ['93.184.215.14'] }])
  })

  const bad: [string, Act][] = [
    ['of another type', file('<html>', 'text/html')],
    ['too large', file(new Uint8Array(2_000), 'image/png')],
    ['gone', status(404)],
  ]
  for (const [name, act] of bad) {
    test(`that is ${name} is not taken`, async () => {
      server.on('GET /files/a.png', act)
      const failure = await failureOf(create({ maxOutputBytes: 1_000 }).generate(imageOrder, createAttempt().attempt))
      expect(failure).toMatchObject({ failure: 'invalid_output', retryable: false })
      expect(server.count('GET /files/a.png')).toBe(1)
    })
  }

  test('that is empty is not taken, and the order is forgotten', async () => {
    server.on('GET /files/a.png', file('', 'image/png'))
    const { attempt, notes } = createAttempt()
    expect(await failureOf(create().generate(imageOrder, attempt))).toMatchObject({
      failure: 'invalid_output',
      retryable: true,
    })
    expect(notes.at(-1)).toBeNull()
  })

  test('that cannot be had now is left for another attempt, with the order', async () => {
    for (const [act, failure] of [
      [status(503), 'unavailable'],
      [cut('image/png'), 'unavailable'],
      [hang, 'timeout'],
    ] as const) {
      server.on('GET /files/a.png', act)
      const { attempt, notes } = createAttempt()
      const failed = await failureOf(create({ fetchMs: 200 }).generate(imageOrder, attempt))
      expect(failed).toMatchObject({ failure, retryable: true })
      expect(notes).toEqual([{ request_id: id }])
    }
    expect(server.count('GET /files/a.png')).toBe(9)
  })
})

describe('a fal that does not work', () => {
  test('is found out after some calls, then left alone, and asked once in a while', async () => {
    const clock = manualClock()
    const fal = create({ clock, failuresToTrip: 4, probeAfterMs: 30_000 })
    const make = () => failureOf(fal.generate(imageOrder, createAttempt().attempt))
    server.on(submit, status(503))
    await make()
    expect(fal.state()).toBe('up')
    expect(await make()).toMatchObject({ failure: 'unavailable', retryable: true })
    expect([fal.state(), server.count(submit)]).toEqual(['tripped', 4])

    expect(await make()).toMatchObject({ failure: 'unavailable', retryable: true })
    clock.advance(29_999)
    await make()
    expect(server.count(submit)).toBe(4)
    clock.advance(1)
    await make()
    expect([fal.state(), server.count(submit)]).toEqual(['tripped', 5])

    server.on(submit, json(submitted))
    clock.advance(30_000)
    expect((await fal.generate(imageOrder, createAttempt().attempt)).length).toBe(2)
    expect(fal.state()).toBe('up')
    expect(world.logged).toMatchObject([
      { event: 'provider.tripped', provider: 'fal' },
      { event: 'provider.back', provider: 'fal' },
    ])
  })

  test('is not one that refuses, has enough for now, or whose model or files fail', async () => {
    const fal = create({ failuresToTrip: 1 })
    const make = () => failureOf(fal.generate(imageOrder, createAttempt().attempt))
    server.on(submit, status(422))
    await make()
    server.on(submit, status(429))
    await make()
    server.on(submit, json(submitted))
    server.on(result, status(500))
    await make()
    server.on(result, json(made))
    server.on('GET /files/a.png', status(500))
    await make()
    expect(fal.state()).toBe('up')
  })
})

test('the key is in nothing that is thrown or logged', async () => {
  const thrown: unknown[] = []
  for (const act of [status(401), status(500), drop, hang, file('no', 'text/html'), cut('application/json')]) {
    server.on(submit, act)
    thrown.push(
      await failureOf(create({ callMs: 50, failuresToTrip: 1 }).generate(imageOrder, createAttempt().attempt)),
    )
  }
  expect(Bun.inspect([thrown, world.logged], { depth: 20 })).not.toContain('hunter2')
})
