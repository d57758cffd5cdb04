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

/** Two instances over one database: streams are of the one, work and changes are of the other. */
let telling: TestApp
let working: TestApp
let sql: Sql
let client: Api
const opened: EventClient[] = []

beforeAll(async () => {
  telling = await startApp({ config: { dbConnections: 40 } })
  working = await startApp({
    connection: telling.connection,
    config: { dbConnections: 40, jobConcurrency: 1, renderWorkers: 1 },
  })
  sql = connectOnce(telling.connection)
  client = api(working.baseUrl)
})
afterEach(async () => {
  for (const each of opened.splice(0)) each.close()
  for (const app of [telling, working]) await until(() => app.services.streams.size === 0, 'no stream is left')
  // What nobody waits for any more.
  await sql`select pg_notify('velro', 'cancelled ' || generation_id) from generation_jobs`
  await sql`delete from generation_jobs`
})
afterAll(async () => {
  await sql?.end()
  await working?.close()
  await telling?.close()
})

const order = async ({ token }: Person, input: object = small): Promise<string> => {
  const { status, body } = await client.post(path, input, { token })
  expect(status).toBe(201)
  return body.id
}
const open = async ({ token }: Person, id: string, lastEventId?: string, { baseUrl } = telling) => {
  const stream = await openEvents(`${baseUrl}${path}/${id}/stream`, {
    token,
    ...(lastEventId !== undefined && { lastEventId }),
  })
  opened.push(stream)
  return stream
}
const ended = (stream: EventClient, withinMs?: number) => until(() => stream.ended, 'the stream ends', withinMs)
const kindsOf = ({ events }: EventClient) => events.map(({ event }) => event)
const progressOf = ({ events }: EventClient) =>
  events.filter(({ event }) => event === 'progress').map(({ data }) => data.progress as number)
const begun = (stream: EventClient) => until(() => progressOf(stream).some((progress) => progress > 0), 'it goes on')
const cancel = ({ token }: Person, id: string) => client.post(`${path}/${id}/cancel`, undefined, { token })

describe('a stream, on another instance than the one that works', () => {
  test('goes from acceptance to done: places in the queue, progress that grows, the whole generation', async () => {
    const ada = await register(client)
    const first = await order(ada, medium)
    await until(async () => (await sql`select from generation_jobs where attempt > 0`).length === 1, 'it is taken')
    const ids = [first, await order(ada), await order(ada)]
    const streams = await Promise.all(ids.map((id) => open(ada, id)))
    const [busy, next, last] = streams as [EventClient, EventClient, EventClient]
    await until(() => kindsOf(next).includes('position') && kindsOf(last).includes('position'), 'their places')
    expect(next.events[0]).toMatchObject({ event: 'status', data: { status: 'queued', attempt: 0 } })
    expect([next.events[1]?.data, last.events[1]?.data]).toEqual([{ position: 0 }, { position: 1 }])
    await begun(busy)
    for (const stream of streams) await ended(stream, 60_000)
    const steps = progressOf(busy)
    expect(steps.length).toBeGreaterThan(3)
    expect(steps).toEqual(steps.toSorted((a, b) => a - b))
    expect(steps.every((step) => step >= 0 && step <= 1)).toBe(true)
    expect(kindsOf(busy)[0]).toBe('status')
    for (const [index, stream] of streams.entries()) {
      const { body } = await client.get(`${path}/${ids[index]}`, { token: ada.token })
      expect(stream.events.at(-1)).toEqual({ event: 'done', id: 'completed', data: body })
      expect(kindsOf(stream).filter((kind) => kind === 'done')).toHaveLength(1)
    }
  }, 90_000)

  test('has what is the caller’s own in the last event: its favorites', async () => {
    const [ada, ben] = [await register(client), await register(client)]
    const { body } = await client.post('/api/v1/projects', { name: 'P', visibility: 'public' }, { token: ada.token })
    const id = await order(ada, { ...large, project_id: body.id })
    await client.post(`${path}/${id}/favorite`, { favorite: true }, { token: ben.token })
    const [hers, his] = [await open(ada, id), await open(ben, id)]
    await begun(hers)
    await begun(his)
    await cancel(ada, id)
    await Promise.all([ended(hers), ended(his)])
    expect([hers, his].map(({ events }) => [events.at(-1)?.data.status, events.at(-1)?.data.favorite])).toEqual([
      ['cancelled', false],
      ['cancelled', true],
    ])
  })

  test('of one that fails says why', async () => {
    const ada = await register(client)
    const id = await order(ada, large)
    const stream = await open(ada, id)
    await begun(stream)
    await sql`update generations set started_at = now() - interval '1 hour' where id = ${id}`
    await sql`update generation_jobs set lease_until = now(), attempt = attempt + 1 where generation_id = ${id}`
    await ended(stream, 40_000)
    expect(stream.events.at(-1)).toMatchObject({ event: 'done', id: 'failed', data: { failure: 'timeout' } })
  }, 60_000)

  test('of one that is deleted ends, and whoever asks again is told that it is not there', async () => {
    const ada = await register(client)
    const id = await order(ada, large)
    const stream = await open(ada, id)
    await begun(stream)
    await client.delete(`${path}/${id}`, { token: ada.token })
    await ended(stream)
    expect(kindsOf(stream)).not.toContain('done')
    expect((await open(ada, id)).status).toBe(404)
  })
})

describe('a client that comes again', () => {
  test('to any instance is told what is news since, and nothing twice', async () => {
    const ada = await register(client)
    const id = await order(ada, large)
    const stream = await open(ada, id)
    await begun(stream)
    stream.close()
    const last = stream.events.at(-1)
    const again = await open(ada, id, last?.id, working)
    await begun(again)
    expect(kindsOf(again)).not.toContain('status')
    expect(progressOf(again)[0]).toBeGreaterThan(last?.data.progress)
    const anew = await open(ada, id, 'not one of ours')
    await begun(anew)
    expect(kindsOf(anew)[0]).toBe('status')
    await cancel(ada, id)
    await ended(again)
    expect((await open(ada, id, 'cancelled')).status).toBe(204)
    const over = await open(ada, id, again.events.at(-2)?.id)
    await ended(over)
    expect(kindsOf(over)).toEqual(['done'])
  })
})

describe('a stream ends with the right to it, taken away on another instance', () => {
  const watch = async () => {
    const [ada, ben] = [await register(client), await register(client)]
    const { body: project } = await client.post(
      '/api/v1/projects',
      { name: 'P', visibility: 'public' },
      { token: ada.token },
    )
    const id = await order(ada, { ...large, project_id: project.id })
    const [hers, his] = [await open(ada, id), await open(ben, id)]
    await begun(hers)
    await begun(his)
    return { ada, ben, id, project: project.id as string, hers, his }
  }
  /** Whatever is told to the others after that, this one hears none of it. */
  const endsUntold = async (lost: EventClient, kept: EventClient, take: () => Promise<{ status: number }>) => {
    expect((await take()).status).toBeLessThan(300)
    const { text } = lost
    // A second, and what a busy machine takes on top.
    await ended(lost, 5_000)
    expect([lost.text.length - text.length < 200, kindsOf(lost).includes('done'), kept.ended]).toEqual([
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

  test('when its project is shown no more', async () => {
    const { ada, project, hers, his } = await watch()
    await endsUntold(his, hers, () =>
      client.patch(`/api/v1/projects/${project}`, { visibility: 'private' }, { token: ada.token }),
    )
  })

  test('when it moves to where it cannot be seen', async () => {
    const { ada, id, hers, his } = await watch()
    await endsUntold(his, hers, () => client.patch(`${path}/${id}`, { project_id: null }, { token: ada.token }))
  })

  test('when the session ends, and other sessions go on', async () => {
    const { ada, id, hers } = await watch()
    const { body } = await client.post('/api/v1/auth/login', { email: ada.email, password: ada.password })
    const other = await open({ ...ada, token: body.access_token }, id)
    await begun(other)
    await endsUntold(other, hers, () => client.post('/api/v1/auth/logout', undefined, { token: body.access_token }))
  })

  test('when the account is suspended', async () => {
    const { ben, hers, his } = await watch()
    const { token } = await operator()
    await endsUntold(his, hers, () => client.patch(`/api/v1/users/${ben.id}`, { status: 'suspended' }, { token }))
  })

  test('even while no message comes through; who may read on is told on, by what is stored', async () => {
    const { ben, hers, his } = await watch()
    // Stopped, not cut: a line that is made anew may bring a heartbeat before it is cut again.
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
      await until(() => systemClock.monotonic() > telling.services.caches.bus.lease.untilMs, 'memory is not believed')
      const heard = progressOf(hers).length
      await sql`update users set status = 'suspended' where id = ${ben.id}`
      await ended(his)
      await until(() => progressOf(hers).length > heard, 'it goes on')
      expect(hers.ended).toBe(false)
    } finally {
      stopping = false
      await done
      for (const pid of stopped) process.kill(pid, 'SIGCONT')
      await telling.leased()
      await working.leased()
    }
  }, 60_000)
})

describe('an access token', () => {
  test('that runs out ends its streams, and no others', async () => {
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
      await until(() => kindsOf(late).includes('position'), 'it is told')
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
  test('are forgotten when their clients go', async () => {
    const ada = await register(client)
    const id = await order(ada, large)
    const streams = await Promise.all(Array.from({ length: 10 }, () => open(ada, id)))
    expect(telling.services.streams.size).toBe(10)
    for (const stream of streams) stream.close()
    await until(() => telling.services.streams.size === 0, 'all are forgotten')
  })

  test('are so many for a session and no more, of whatever generations; another session has its own', async () => {
    const ada = await register(client)
    const ids = [await order(ada, large), await order(ada)]
    const streams = await Promise.all(Array.from({ length: 16 }, (_, index) => open(ada, ids[index % 2] as string)))
    expect(new Set(streams.map(({ status }) => status))).toEqual(new Set([200]))
    const refused = await open(ada, ids[0] as string)
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([429, '5'])
    const { body } = await client.post('/api/v1/auth/login', { email: ada.email, password: ada.password })
    expect((await open({ ...ada, token: body.access_token }, ids[0] as string)).status).toBe(200)
    streams[0]?.close()
    await until(async () => (await open(ada, ids[0] as string)).status === 200, 'there is room again')
  })

  test('are not asked for by a HEAD, which is answered and leaves none behind', async () => {
    const ada = await register(client)
    const id = await order(ada, large)
    const head = await fetch(`${telling.baseUrl}${path}/${id}/stream`, {
      method: 'HEAD',
      headers: { authorization: `Bearer ${ada.token}` },
    })
    expect([head.status, head.headers.get('content-type'), telling.services.streams.size]).toEqual([
      200,
      'text/event-stream',
      0,
    ])
  })

  test('many of one generation cost few statements', async () => {
    const statements: string[] = []
    const app = await startApp({
      connection: telling.connection,
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
      for (const stream of streams) await begun(stream)
      statements.length = 0
      const { length } = progressOf(streams[0] as EventClient)
      await until(() => progressOf(streams[0] as EventClient).length >= length + 5, 'it goes on')
      // All of them are read again now and then, and facts that expired: once for all.
      expect(statements.length).toBeLessThan(12)
      for (const stream of streams) stream.close()
      await until(() => app.services.streams.size === 0, 'all are forgotten')
    } finally {
      await app.close()
    }
  }, 60_000)
})
