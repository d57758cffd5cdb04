import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { until } from '../faults/support.ts'
import { type EventClient, openEvents } from '../harness/events.ts'
import { type Api, api, type Person, type Runtime, register, startServer, type TestServer } from '../harness.ts'

const path = '/api/v1/generations'
const input = { model: 'local/procedural', prompt: 'a harbour', parameters: { width: 64, height: 64 } }

for (const runtime of ['bun', 'deno'] as const satisfies Runtime[]) {
  describe(`event streams from one address, on ${runtime}`, () => {
    let server: TestServer
    let client: Api
    let port: string
    const opened: EventClient[] = []
    beforeAll(async () => {
      server = await startServer({
        runtime,
        env: { HOST: '::', TRUSTED_PROXIES: '::1', LIMITS: 'on', LIMIT_STREAMS_ADDRESS: '3', JOB_CONCURRENCY: '0' },
      })
      client = api(server.baseUrl)
      port = new URL(server.baseUrl).port
    })
    afterAll(async () => {
      for (const stream of opened) stream.close()
      await server.stop()
    })

    /** A generation that stays queued. */
    const order = async ({ token }: Person): Promise<string> =>
      (await client.post(path, input, { token, headers: { 'idempotency-key': crypto.randomUUID() } })).body.id
    const open = async (host: string, { token }: Person, id: string, forwardedFor?: string) => {
      const stream = await openEvents(`http://${host}:${port}${path}/${id}/stream`, {
        token,
        ...(forwardedFor !== undefined && { headers: { 'x-forwarded-for': forwardedFor } }),
      })
      opened.push(stream)
      return stream
    }

    test('are limited, an IPv6 address by its /64, and give way to the first of another person', async () => {
      const [ada, bea] = [await register(client), await register(client)]
      const [hers, others] = [await order(ada), await order(bea)]
      const from = (person: Person, id: string, address: string) => open('[::1]', person, id, address)
      const first = await from(ada, hers, '2001:db8:1:2::1')
      for (const address of ['2001:db8:1:2::2', '2001:db8:1:2:ffff::3']) {
        expect((await from(ada, hers, address)).status).toBe(200)
      }
      const refused = await from(ada, hers, '2001:db8:1:2::4')
      await until(() => refused.ended, 'the refusal is read')
      expect([refused.status, refused.headers.get('retry-after'), JSON.parse(refused.text)]).toMatchObject([
        429,
        '5',
        { code: 'generation.too_many_streams_from_address', limit: 3 },
      ])
      expect((await from(ada, hers, '2001:db8:1:3::4')).status).toBe(200)
      expect(first.ended).toBe(false)
      expect((await from(bea, others, '2001:db8:1:2::5')).status).toBe(200)
      await until(() => first.ended, 'the oldest stream of the person with most ends')
    })

    test('are not limited where the address is that of a proxy that is not trusted', async () => {
      const cem = await register(client)
      const his = await order(cem)
      const direct = [1, 2, 3, 4].map(() => () => open('127.0.0.1', cem, his))
      const statuses: number[] = []
      for (const each of direct) statuses.push((await each()).status)
      expect(statuses).toEqual([200, 200, 200, 429])
      for (let stream = 0; stream < 4; stream += 1) {
        expect((await open('127.0.0.1', cem, his, '192.0.2.1')).status).toBe(200)
      }
    })
  })
}
