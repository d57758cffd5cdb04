import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test'
import { manualClock, systemClock } from '../../src/kit/clock.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { type EventClient, openEvents } from '../harness/events.ts'
import { type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const path = '/api/v1/generations'
const small = { model: 'local/procedural', prompt: 'a lighthouse', parameters: { width: 64, height: 64 } }
const medium = { ...small, parameters: { width: 1_024, height: 1_024 }, outputs: 4 }
const large = { ...small, parameters: { width: 2_048, height: 2_048 }, outputs: 4 }

/** Two instances over one database: `streaming` has the streams, `working` runs the jobs and makes the changes. */
let streaming: TestApp
let working: TestApp
let sql: Sql
let client: Api
const opened: EventClient[] = []

beforeAll(async () => {
  streaming = await startApp({ config: { dbConnections: 40 } })
  working = await startApp({
    connection: streaming.connection,
    config: { dbConnections: 40, jobConcurrency: 1, renderWorkers: 1 },
  })
  sql = connectOnce(streaming.connection)
  client = api(working.baseUrl)
})
afterEach(async () => {
  for (const each of opened.splice(0)) each.close()
  for (const app of [streaming, working]) await until(() => app.services.streams.size === 0, 'all streams are removed')
  // Aborts the attempts that are still running.
  await sql`select pg_notify('velro', 'cancelled ' || generation_id) from generation_jobs`
  await sql`delete from generation_jobs`
})
afterAll(async () => {
  await sql?.end()
  await working?.close()
  await streaming?.close()
})

const order = async ({ token }: Person, input: object = small): Promise<string> => {
  const { status, body } = await client.post(path, input, { token })
  expect(status).toBe(201)
  return body.id
}
const open = async ({ token }: Person, id: string, lastEventId?: string, { baseUrl } = streaming) => {
  const stream = await openEvents(`${baseUrl}${path}/${id}/stream`, {
    token,
    ...(lastEventId !== undefined && { lastEventId }),
  })
  opened.push(stream)
  return stream
}
const ended = (stream: EventClient, withinMs?: number) => until(() => stream.ended, 'the stream ends', withinMs)
const eventNames = ({ events }: EventClient) => events.map(({ event }) => event)
const progressOf = ({ events }: EventClient) =>
  events.filter(({ event }) => event === 'progress').map(({ data }) => data.progress as number)
const progressed = (stream: EventClient) =>
  until(() => progressOf(stream).some((progress) => progress > 0), 'the stream shows progress')
const cancel = ({ token }: Person, id: string) => client.post(`${path}/${id}/cancel`, undefined, { token })

describe('a stream on another instance than the worker', () => {
  test('sends queue positions, growing progress and finally the complete generation', async () => {
    const ada = await register(client)
    const first = await order(ada, medium)
    await until(
      async () => (await sql`select from generation_jobs where attempt > 0`).length === 1,
      'the first job is leased',
    )
    const ids = [first, await order(ada), await order(ada)]
    const streams = await Promise.all(ids.map((id) => open(ada, id)))
    const [busy, next, last] = streams as [EventClient, EventClient, EventClient]
    await until(
      () => eventNames(next).includes('position') && eventNames(last).includes('position'),
      'both positions are sent',
    )
    expect(next.events[0]).toMatchObject({ event: 'status', data: { status: 'queued', attempt: 0 } })
    expect([next.events[1]?.data, last.events[1]?.data]).toEqual([{ position: 0 }, { position: 1 }])
    await progressed(busy)
    for (const stream of streams) await ended(stream, 60_000)
    const steps = progressOf(busy)
    expect(steps.length).toBeGreaterThan(3)
    expect(steps).toEqual(steps.toSorted((a, b) => a - b))
    expect(steps.every((step) => step >= 0 && step <= 1)).toBe(true)
    expect(eventNames(busy)[0]).toBe('status')
    for (const [index, stream] of streams.entries()) {
      const { body } = await client.get(`${path}/${ids[index]}`, { token: ada.token })
      expect(stream.events.at(-1)).toEqual({ event: 'done', id: 'completed', data: body })
      expect(eventNames(stream).filter((kind) => kind === 'done')).toHaveLength(1)
    }
  }, 90_000)

  test('ends with the generation as its caller sees it, including the favorite', async () => {
    const [ada, ben] = [await register(client), await register(client)]
    const { body } = await client.post('/api/v1/projects', { name: 'P', visibility: 'public' }, { token: ada.token })
    const id = await order(ada, { ...large, project_id: body.id })
    await client.post(`${path}/${id}/favorite`, { favorite: true }, { token: ben.token })
    const [hers, his] = [await open(ada, id), await open(ben, id)]
    await progressed(hers)
    await progressed(his)
    await cancel(ada, id)
    await Promise.all([ended(hers), ended(his)])
    expect([hers, his].map(({ events }) => [events.at(-1)?.data.status, events.at(-1)?.data.favorite])).toEqual([
      ['cancelled', false],
      ['cancelled', true],
    ])
  })

  test('of a failed generation ends with the reason', async () => {
    const ada = await register(client)
    const id = await order(ada, large)
    const stream = await open(ada, id)
    await progressed(stream)
    await sql`update generations set started_at = now() - interval '1 hour' where id = ${id}`
    await sql`update generation_jobs set lease_until = now(), attempt = attempt + 1 where generation_id = ${id}`
    await ended(stream, 40_000)
    expect(stream.events.at(-1)).toMatchObject({ event: 'done', id: 'failed', data: { failure: 'timeout' } })
  }, 60_000)

  test('of a deleted generation ends, and reconnecting gives 404', async () => {
    const ada = await register(client)
    const id = await order(ada, large)
    const stream = await open(ada, id)
    await progressed(stream)
    await client.delete(`${path}/${id}`, { token: ada.token })
    await ended(stream)
    expect(eventNames(stream)).not.toContain('done')
    expect((await open(ada, id)).status).toBe(404)
  })
})

describe('a client that reconnects', () => {
  test('to any instance with Last-Event-ID receives only what changed since', async () => {
    const ada = await register(client)
    const id = await order(ada, large)
    const stream = await open(ada, id)
    await progressed(stream)
    stream.close()
    const last = stream.events.at(-1)
    const resumed = await open(ada, id, last?.id, working)
    await progressed(resumed)
    expect(eventNames(resumed)).not.toContain('status')
    expect(progressOf(resumed)[0]).toBeGreaterThan(last?.data.progress)
    const restarted = await open(ada, id, 'not one of ours')
    await progressed(restarted)
    expect(eventNames(restarted)[0]).toBe('status')
    await cancel(ada, id)
    await ended(resumed)
    expect((await open(ada, id, 'cancelled')).status).toBe(204)
    const late = await open(ada, id, resumed.events.at(-2)?.id)
    await ended(late)
    expect(eventNames(late)).toEqual(['done'])
  })
})

describe('a stream whose permission is revoked on another instance', () => {
  const watch = async () => {
    const [ada, ben] = [await register(client), await register(client)]
    const { body: project } = await client.post(
      '/api/v1/projects',
      { name: 'P', visibility: 'public' },
      { token: ada.token },
    )
    const id = await order(ada, { ...large, project_id: project.id })
    const [hers, his] = [await open(ada, id), await open(ben, id)]
    await progressed(hers)
    await progressed(his)
    return { ada, ben, id, project: project.id as string, hers, his }
  }
  /** Revokes a permission: its stream ends without another event, and the other stream continues. */
  const endsWithoutEvent = async (
    revoked: EventClient,
    other: EventClient,
    revoke: () => Promise<{ status: number }>,
  ) => {
    expect((await revoke()).status).toBeLessThan(300)
    const { text } = revoked
    // A second, with a margin for a busy machine.
    await ended(revoked, 5_000)
    expect([revoked.text.length - text.length < 200, eventNames(revoked).includes('done'), other.ended]).toEqual([
      true,
      false,
      false,
    ])
  }
  const operator = async () => {
    const person = await register(client)
    await sql`update users set role = 'admin' where id = ${person.id}`
    return person
  }

  test('ends when its project becomes private', async () => {
    const { ada, project, hers, his } = await watch()
    await endsWithoutEvent(his, hers, () =>
      client.patch(`/api/v1/projects/${project}`, { visibility: 'private' }, { token: ada.token }),
    )
  })

  test('ends when the generation moves out of the visible project', async () => {
    const { ada, id, hers, his } = await watch()
    await endsWithoutEvent(his, hers, () => client.patch(`${path}/${id}`, { project_id: null }, { token: ada.token }))
  })

  test('ends when its session ends, while those of other sessions continue', async () => {
    const { ada, id, hers } = await watch()
    const { body } = await client.post('/api/v1/auth/login', { email: ada.email, password: ada.password })
    const other = await open({ ...ada, token: body.access_token }, id)
    await progressed(other)
    await endsWithoutEvent(other, hers, () =>
      client.post('/api/v1/auth/logout', undefined, { token: body.access_token }),
    )
  })

  test('ends when its account is suspended', async () => {
    const { ben, hers, his } = await watch()
    const { token } = await operator()
    await endsWithoutEvent(his, hers, () => client.patch(`/api/v1/users/${ben.id}`, { status: 'suspended' }, { token }))
  })

  test('ends even while the bus is silent, and permitted streams continue from the database', async () => {
    const { ben, hers, his } = await watch()
    // The backends are stopped instead of terminated: after a reconnect, a heartbeat could pass before the next termination.
    const stopped = new Set<number>()
    let stopping = true
    const stop = async () => {
      while (stopping) {
        const lines = await sql<{ pid: number }[]>`
          select pid from pg_stat_activity where application_name = 'velro:bus' and datname = current_database()`
        for (const { pid } of lines) {
          if (stopped.has(pid)) continue
          process.kill(pid, 'SIGSTOP')
          stopped.add(pid)
        }
        await Bun.sleep(10)
      }
    }
    const done = stop()
    try {
      await until(
        () => systemClock.monotonic() > streaming.services.caches.bus.lease.untilMs,
        'the lease on memory has expired',
      )
      const before = progressOf(hers).length
      await sql`update users set status = 'suspended' where id = ${ben.id}`
      await ended(his)
      await until(() => progressOf(hers).length > before, 'progress continues')
      expect(hers.ended).toBe(false)
    } finally {
      stopping = false
      await done
      for (const pid of stopped) process.kill(pid, 'SIGCONT')
      await streaming.leased()
      await working.leased()
    }
  }, 60_000)
})

describe('an expired access token', () => {
  test('ends the streams opened with it and no others', async () => {
    const clock = manualClock(Date.now())
    const app = await startApp({ clock: { now: clock.now, monotonic: systemClock.monotonic } })
    try {
      const own = api(app.baseUrl)
      const ada = await register(own)
      const { body } = await own.post(path, small, { token: ada.token })
      const early = await open(ada, body.id, undefined, app)
      clock.advance(600_000)
      const { body: renewed } = await own.post('/api/v1/auth/refresh', { refresh_token: ada.refreshToken })
      const late = await open({ ...ada, token: renewed.access_token }, body.id, undefined, app)
      await until(() => eventNames(late).includes('position'), 'the position is sent')
      clock.advance(299_000)
      await Bun.sleep(300)
      expect(early.ended).toBe(false)
      clock.advance(1_000)
      await ended(early, 5_000)
      expect(late.ended).toBe(false)
      late.close()
    } finally {
      await app.close()
    }
  })
})

describe('streams', () => {
  test('are removed when their clients disconnect', async () => {
    const ada = await register(client)
    const id = await order(ada, large)
    const streams = await Promise.all(Array.from({ length: 10 }, () => open(ada, id)))
    expect(streaming.services.streams.size).toBe(10)
    for (const stream of streams) stream.close()
    await until(() => streaming.services.streams.size === 0, 'all are removed')
  })

  test('are limited to 16 for each session, over all generations', async () => {
    const ada = await register(client)
    const ids = [await order(ada, large), await order(ada)]
    const streams = await Promise.all(Array.from({ length: 16 }, (_, index) => open(ada, ids[index % 2] as string)))
    expect(new Set(streams.map(({ status }) => status))).toEqual(new Set([200]))
    const refused = await open(ada, ids[0] as string)
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([429, '5'])
    const { body } = await client.post('/api/v1/auth/login', { email: ada.email, password: ada.password })
    expect((await open({ ...ada, token: body.access_token }, ids[0] as string)).status).toBe(200)
    streams[0]?.close()
    await until(async () => (await open(ada, ids[0] as string)).status === 200, 'a closed stream frees its place')
  })

  test('are not opened by HEAD, which gets the headers only', async () => {
    const ada = await register(client)
    const id = await order(ada, large)
    const head = await fetch(`${streaming.baseUrl}${path}/${id}/stream`, {
      method: 'HEAD',
      headers: { authorization: `Bearer ${ada.token}` },
    })
    expect([head.status, head.headers.get('content-type'), streaming.services.streams.size]).toEqual([
      200,
      'text/event-stream',
      0,
    ])
  })

  test('of one generation share their statements', async () => {
    const statements: string[] = []
    const app = await startApp({
      connection: streaming.connection,
      onStatement: (text) => void statements.push(text),
      config: { dbConnections: 24 },
    })
    try {
      const people = await Promise.all(Array.from({ length: 10 }, () => register(client)))
      const [ada] = people as [Person]
      const { body } = await client.post('/api/v1/projects', { name: 'P', visibility: 'public' }, { token: ada.token })
      const id = await order(ada, { ...large, project_id: body.id })
      const streams = await Promise.all(
        people.flatMap((person) => Array.from({ length: 10 }, () => open(person, id, undefined, app))),
      )
      for (const stream of streams) await progressed(stream)
      statements.length = 0
      const { length } = progressOf(streams[0] as EventClient)
      await until(() => progressOf(streams[0] as EventClient).length >= length + 5, 'progress continues')
      // Resyncs, and facts that expired: once for all streams.
      expect(statements.length).toBeLessThan(12)
      for (const stream of streams) stream.close()
      await until(() => app.services.streams.size === 0, 'all are removed')
    } finally {
      await app.close()
    }
  }, 60_000)
})
