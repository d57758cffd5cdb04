import { afterEach, describe, expect, test } from 'bun:test'
import { openEvents } from '../harness/events.ts'
import { type Api, api, type Person, type Runtime, register, startServer, type TestServer } from '../harness.ts'
import { holdUser, until } from './support.ts'

const drainMs = 2_000
const failures = /"level":"(error|fatal)"|uncaught/i

for (const runtime of ['bun', 'deno'] as const satisfies Runtime[]) {
  describe(`after SIGTERM, a server on ${runtime}`, () => {
    const started: TestServer[] = []
    const releases: (() => Promise<void>)[] = []
    afterEach(async () => {
      for (const release of releases.splice(0)) await release()
      for (const server of started.splice(0)) await server.kill('SIGKILL')
    })

    const start = async (env: Record<string, string> = {}) => {
      const server = await startServer({ runtime, env: { DRAIN_SECONDS: String(drainMs / 1_000), ...env } })
      started.push(server)
      const client = api(server.baseUrl)
      const person = await register(client)
      return { server, client, person }
    }
    /** A request that is under way until `release`. */
    const startSlow = async (server: TestServer, client: Api, { id, token }: Person) => {
      const hold = await holdUser(server.connection, id)
      releases.push(hold.release)
      const answer = client.patch('/api/v1/auth/me', { display_name: 'Late' }, { token }).then(
        ({ status, body }) => ({ status, body }),
        () => ({ status: 0, body: undefined }),
      )
      await hold.waiting(1)
      return { answer, release: hold.release }
    }

    test('exits at once with code 0 when no request is under way', async () => {
      const { server } = await start()
      const startedMs = performance.now()
      expect(await server.kill('SIGTERM')).toBe(0)
      expect(performance.now() - startedMs).toBeLessThan(drainMs)
      expect(server.output()).not.toMatch(failures)
    })

    test('finishes the request under way and exits with code 0', async () => {
      const { server, client, person } = await start()
      const slow = await startSlow(server, client, person)
      const ended = server.kill('SIGTERM')
      await slow.release()
      expect(await slow.answer).toMatchObject({ status: 200, body: { display_name: 'Late' } })
      expect(await ended).toBe(0)
      expect(server.output()).not.toMatch(failures)
    })

    test('ends its streams without waiting for them, so that clients reconnect to another instance', async () => {
      const { server, client, person } = await start()
      const { body } = await client.post(
        '/api/v1/generations',
        { model: 'local/procedural', prompt: 'p', parameters: { width: 2_048, height: 2_048 }, outputs: 4 },
        { token: person.token },
      )
      const url = `${server.baseUrl}/api/v1/generations/${body.id}/stream`
      const streams = await Promise.all(Array.from({ length: 5 }, () => openEvents(url, { token: person.token })))
      await until(() => streams.every(({ events }) => events.length > 0), 'every stream has sent an event')
      const startedMs = performance.now()
      const ended = server.kill('SIGTERM')
      await until(() => streams.every(({ ended }) => ended), 'the streams end')
      expect(performance.now() - startedMs).toBeLessThan(drainMs)
      expect(await ended).toBe(0)
      expect(streams.flatMap(({ events }) => events).some(({ event }) => event === 'done')).toBe(false)
      expect(server.output()).not.toMatch(failures)
    })

    test('is alive, not ready, and refuses new requests while one is under way', async () => {
      const { server, client, person } = await start()
      const slow = await startSlow(server, client, person)
      const ended = server.kill('SIGTERM')
      await until(() => server.output().includes('shutting down'), 'the shutdown is logged')
      const ready = await client.get('/ready')
      expect([ready.status, ready.body]).toEqual([503, { status: 'not_ready', reasons: ['server.stopping'] }])
      expect((await client.get('/health')).status).toBe(200)
      const me = await client.get('/api/v1/auth/me', { token: person.token })
      expect([me.status, me.body.code, me.headers.get('retry-after')]).toEqual([503, 'server.stopping', '1'])
      await slow.release()
      expect((await slow.answer).status).toBe(200)
      expect(await ended).toBe(0)
    })

    test('is not ready and serves new requests for DRAIN_DELAY_SECONDS, then exits', async () => {
      const { server, client, person } = await start({ DRAIN_DELAY_SECONDS: '2' })
      const startedMs = performance.now()
      const ended = server.kill('SIGTERM')
      await until(() => server.output().includes('shutting down'), 'the shutdown is logged')
      const ready = await client.get('/ready')
      expect([ready.status, ready.body]).toEqual([503, { status: 'not_ready', reasons: ['server.stopping'] }])
      const me = await client.patch('/api/v1/auth/me', { display_name: 'Served' }, { token: person.token })
      expect([me.status, me.body.display_name]).toEqual([200, 'Served'])
      // Guards the test: these requests arrived during the delay.
      expect(performance.now() - startedMs).toBeLessThan(2_000)
      expect(await ended).toBe(0)
      expect(performance.now() - startedMs).toBeGreaterThan(1_900)
      expect(server.output()).not.toMatch(failures)
    })

    test('waits for a request at most DRAIN_SECONDS', async () => {
      const { server, client, person } = await start()
      const slow = await startSlow(server, client, person)
      const startedMs = performance.now()
      expect(await server.kill('SIGTERM')).not.toBeNull()
      const tookMs = performance.now() - startedMs
      expect((await slow.answer).status).not.toBe(200)
      expect(tookMs).toBeGreaterThan(drainMs * 0.8)
      // Guards the test: the deadline of the request is later.
      expect(tookMs).toBeLessThan(drainMs + 1_500)
    })

    test('exits at once after a second SIGTERM', async () => {
      const { server, client, person } = await start()
      await startSlow(server, client, person)
      const startedMs = performance.now()
      const ended = server.kill('SIGTERM')
      // Two signals within 400 ms count as one: a terminal and a runner both pass on a Ctrl-C.
      await Bun.sleep(400)
      server.process.kill('SIGTERM')
      expect(await ended).not.toBeNull()
      expect(performance.now() - startedMs).toBeLessThan(drainMs * 0.6)
    })
  })
}
