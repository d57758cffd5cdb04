import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { Webhook } from 'standardwebhooks'
import { newId } from '../../src/kit/id.ts'
import { register, startApp, testSecret } from '../harness.ts'
import { outcomeOf, unknownId } from '../teams/fixture.ts'
import { isSignedBy, type Received, verify } from './receiver.ts'
import { startWebhookWorld, type WebhookWorld } from './world.ts'

let world: WebhookWorld

beforeAll(async () => {
  world = await startWebhookWorld()
})
afterAll(() => world.close())
beforeEach(() => {
  world.receiver.setReply(() => 204)
})
afterEach(async () => {
  await world.sql`delete from webhooks`
  await world.sql`delete from webhook_events`
})

/** Records an event without what would cause it. Returns its id. */
const record = async (type: string, resource: string, data: object = { user_id: unknownId }): Promise<string> => {
  const [about = '', id = ''] = resource.split(':')
  await world.sql`select record_webhook_event(${type}, ${about}, ${id}, ${world.sql.json(data as never)}, '{}', true)`
  const [row] = await world.sql<{ id: string }[]>`select id from webhook_events order by ordinal desc limit 1`
  // The clock of Postgres does not advance with that of the test.
  await world.sql`update webhook_deliveries set queued_at = ${new Date(world.clock.now())} where event_id = ${row?.id ?? ''}`
  return row?.id ?? ''
}
const recordMany = async (count: number, resource = () => `user:${newId()}`): Promise<string[]> => {
  const ids: string[] = []
  for (let at = 0; at < count; at += 1) ids.push(await record('user.created', resource()))
  return ids
}
const operator = () => ({ token: world.operator.token })
const idsOf = (requests: readonly Received[]) => requests.map(({ id }) => id)
const statesOf = async (id: string) => (await world.deliveries(id)).map(({ status }) => status)
const allDelivered = (id: string) => async () => (await statesOf(id)).every((state) => state === 'delivered')
const statusOf = async (id: string) => (await world.client.get(`/api/v1/webhooks/${id}`, operator())).body.status

describe('a request', () => {
  test('has the event as JSON, and headers that the published library of Standard Webhooks verifies', async () => {
    const hook = await world.webhook(['user.created'])
    const ada = await register(world.client)
    const [request] = await hook.wait(1)
    if (request === undefined) throw new Error('No request')
    expect(verify(request, hook.secret)).toEqual({
      type: 'user.created',
      timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
      data: { user_id: ada.id },
    })
    // As the README shows it.
    const { url, headers, text } = {
      ...request,
      url: 'https://hooks.example.com/',
      headers: request.headers as HeadersInit,
    }
    const asFetched = new Request(url, { method: 'POST', headers, body: text })
    const verified = new Webhook(hook.secret).verify(
      await asFetched.text(),
      Object.fromEntries(asFetched.headers.entries()),
    )
    expect(verified).toEqual(JSON.parse(request.text))
    expect(request.headers).toMatchObject({
      'content-type': 'application/json',
      'user-agent': 'velro-webhooks',
      'content-length': String(Buffer.byteLength(request.text)),
    })
    expect(request.headers['authorization'] ?? request.headers['cookie']).toBeUndefined()
    const [delivery] = await world.deliveries(hook.id)
    expect(delivery).toMatchObject({ event_id: request.id, status: 'delivered', attempts: 1, response_status: 204 })
  })

  test('is refused by that library with another secret, another body, another id or another time', async () => {
    const hook = await world.webhook(['user.created'])
    await record('user.created', 'user:1')
    const [request] = await hook.wait(1)
    if (request === undefined) throw new Error('No request')
    const { text, headers } = request
    const other = (await world.webhook(['user.created'])).secret
    expect(() => verify(request, other)).toThrow()
    expect(() => verify({ headers, text: `${text} ` }, hook.secret)).toThrow()
    for (const [name, value] of [
      ['webhook-id', unknownId],
      ['webhook-timestamp', String(Number(headers['webhook-timestamp']) + 1)],
      ['webhook-timestamp', String(Number(headers['webhook-timestamp']) - 600)],
    ] as const) {
      expect(() => verify({ text, headers: { ...headers, [name]: value } }, hook.secret)).toThrow()
    }
  })

  test('about access is sent 1.75 seconds after the event was seen, and one about a generation at once', async () => {
    const hook = await world.webhook(['access.changed', 'generation.completed'])
    // Ahead of Postgres, whose clock counts too.
    world.clock.advance(60_000)
    await record('access.changed', 'project:1')
    await record('generation.completed', 'generation:1')
    await world.work()
    expect(hook.received().map(({ type }) => type)).toEqual(['generation.completed'])
    world.clock.advance(1_700)
    await world.work()
    expect(hook.received()).toHaveLength(1)
    world.clock.advance(50)
    await world.work()
    expect(hook.received().map(({ type }) => type)).toEqual(['generation.completed', 'access.changed'])
  })
})

describe('while a secret rotates', () => {
  test('requests are signed with both secrets until the overlap has passed, and then with the new one alone', async () => {
    const hook = await world.webhook(['user.created'])
    await world.signIn()
    const rotate = (body: object) => world.client.post(`/api/v1/webhooks/${hook.id}/secret`, body, operator())
    const next = (await rotate({ overlap_hours: 1 })).body.secret
    await record('user.created', 'user:1')
    const [first] = await hook.wait(1)
    if (first === undefined) throw new Error('No request')
    expect(String(first.headers['webhook-signature']).split(' ')).toHaveLength(2)
    for (const secret of [hook.secret, next]) expect(verify(first, secret)).toBeObject()
    world.clock.advance(3_600_000)
    await record('user.created', 'user:2')
    const [, second] = await hook.wait(2)
    expect(String(second?.headers['webhook-signature']).split(' ')).toHaveLength(1)
    await world.signIn()
    const last = (await rotate({ overlap_hours: 0 })).body.secret
    await record('user.created', 'user:3')
    const [, , third] = await hook.wait(3)
    expect(String(third?.headers['webhook-signature']).split(' ')).toHaveLength(1)
    const signed = (request: Received | undefined) =>
      [hook.secret, next, last].map((secret) => request !== undefined && isSignedBy(request, secret))
    expect([signed(second), signed(third)]).toEqual([
      [false, true, false],
      [false, false, true],
    ])
  })
})

describe('a receiver that fails', () => {
  test('for 10 minutes gets every event once it is back, those of each resource in order', async () => {
    const hook = await world.webhook(['user.created'])
    const resources = ['user:a', 'user:b', 'user:c']
    const expected = new Map(resources.map((resource) => [resource, [] as string[]]))
    const seen = new Map<string, string[]>(resources.map((resource) => [resource, []]))
    const resourceOf = new Map<string, string>()
    let isDown = true
    world.receiver.setReply(({ id }) => {
      if (isDown) return 503
      seen.get(resourceOf.get(id) ?? '')?.push(id)
      return 200
    })
    const downFrom = world.clock.now()
    for (let round = 0; round < 10; round += 1) {
      for (const resource of resources) {
        const id = await record('user.created', resource)
        expected.get(resource)?.push(id)
        resourceOf.set(id, resource)
      }
      const until = world.clock.now() + 60_000
      await world.until(() => world.clock.now() >= until, 'a minute', 30_000)
    }
    expect(world.clock.now() - downFrom).toBeGreaterThanOrEqual(600_000)
    await world.signIn()
    expect(await statesOf(hook.id)).toEqual(Array.from({ length: 30 }, () => 'pending'))
    expect(await statusOf(hook.id)).toBe('failing')
    const failed = hook.received().length
    isDown = false
    const backAt = world.clock.now()
    await world.until(() => hook.received().length >= failed + 30, 'all events', 30_000)
    expect(world.clock.now() - backAt).toBeLessThanOrEqual(300_000)
    expect(hook.received()).toHaveLength(failed + 30)
    expect(seen).toEqual(expected)
    await world.signIn()
    expect(await allDelivered(hook.id)()).toBe(true)
    expect(await statusOf(hook.id)).toBe('active')
    // One failing webhook costs few requests: its first ones, and then a probe at a time.
    expect(failed).toBeLessThan(30)
  })

  test('with one event of a resource holds up the later ones of that resource, and no others', async () => {
    const hook = await world.webhook(['user.created'])
    const poison = await record('user.created', 'user:a')
    const behind = await record('user.created', 'user:a')
    const others = await recordMany(3)
    world.receiver.setReply(({ id }) => (id === poison ? 500 : 200))
    await world.until(() => others.every((id) => idsOf(hook.received()).includes(id)), 'the others')
    expect(idsOf(hook.received())).not.toContain(behind)
    world.receiver.setReply(() => 200)
    await world.until(allDelivered(hook.id), 'all')
    expect(idsOf(hook.received()).at(-1)).toBe(behind)
  })

  test('is tried again after pauses that double, with the same id and a new timestamp, and later where it asks to', async () => {
    const hook = await world.webhook(['user.created'])
    await record('user.created', 'user:a')
    const times: number[] = []
    world.receiver.setReply(() => {
      times.push(world.clock.now())
      return times.length < 3 ? 502 : { status: 429, headers: { 'retry-after': '120' } }
    })
    await world.until(() => times.length === 4, 'four attempts', 500)
    const pauses = times.slice(1).map((time, at) => (time - (times[at] ?? 0)) / 1_000)
    const within = [
      [4, 7],
      [8, 13],
      [120, 121],
    ] as const
    within.forEach(([least, most], at) => {
      expect(pauses[at]).toBeGreaterThanOrEqual(least)
      expect(pauses[at]).toBeLessThanOrEqual(most)
    })
    const requests = hook.received()
    expect(new Set(idsOf(requests)).size).toBe(1)
    expect(new Set(requests.map(({ headers }) => headers['webhook-timestamp'])).size).toBe(4)
  })

  test('for 24 hours is given up on for each event, which is then replayed by its id, and with all that failed', async () => {
    const hook = await world.webhook(['user.created'])
    world.receiver.setReply(() => 500)
    const [one, ...rest] = await recordMany(4, () => 'user:a')
    if (one === undefined) throw new Error('Nothing was recorded')
    const from = world.clock.now()
    await world.until(async () => !(await statesOfRows(hook.id)).includes('pending'), 'all given up', 600_000)
    expect(world.clock.now() - from).toBeGreaterThanOrEqual(86_400_000)
    expect(world.clock.now() - from).toBeLessThan(86_400_000 + 7_200_000)
    await world.signIn()
    for (const delivery of await world.deliveries(hook.id)) {
      expect(delivery).toMatchObject({ status: 'failed', error: 'status', response_status: 500, delivered_at: null })
      expect(delivery.attempts).toBeGreaterThan(0)
    }
    world.receiver.setReply(() => 200)
    const root = `/api/v1/webhooks/${hook.id}`
    const before = hook.received().length
    expect((await world.client.post(`${root}/deliveries/${one}/replay`, undefined, operator())).status).toBe(204)
    await world.until(() => hook.received().length > before, 'the replay')
    expect(idsOf(hook.received()).slice(before)).toEqual([one])
    const since = new Date(Date.now() - 3_600_000).toISOString()
    const later = new Date(world.clock.now()).toISOString()
    const replay = async (body: object) => (await world.client.post(`${root}/replay`, body, operator())).body
    expect(await replay({ since: later })).toEqual({ replayed: 0 })
    expect(await replay({ since })).toEqual({ replayed: 3 })
    await world.until(allDelivered(hook.id), 'all')
    expect(idsOf(hook.received()).slice(before)).toEqual([one, ...rest])
    expect(await replay({})).toEqual({ replayed: 0 })
  })

  test('with 410 is disabled and gets nothing more, until it is enabled', async () => {
    const hook = await world.webhook(['user.created'])
    world.receiver.setReply(() => 410)
    const [first] = await recordMany(1)
    await hook.wait(1)
    await world.signIn()
    expect(await statusOf(hook.id)).toBe('gone')
    expect(await statesOf(hook.id)).toEqual(['failed'])
    await recordMany(2)
    world.receiver.setReply(() => 200)
    world.clock.advance(100_000)
    await world.work()
    expect(idsOf(hook.received())).toEqual([first as string])
    await world.client.patch(`/api/v1/webhooks/${hook.id}`, { enabled: true }, operator())
    expect(await statusOf(hook.id)).toBe('active')
    const [next] = await recordMany(1)
    expect(idsOf(await hook.wait(2)).at(-1)).toBe(next as string)
  })

  test('has why it failed in its deliveries: no answer, a redirect, or no connection', async () => {
    const hook = await world.webhook(['user.created'])
    world.receiver.setReply(() => 'close')
    await recordMany(1)
    await hook.wait(1)
    expect((await world.deliveries(hook.id))[0]).toMatchObject({ error: 'connection', response_status: null })
    world.receiver.setReply(() => ({ status: 302, headers: { location: world.receiver.url('/elsewhere') } }))
    await hook.wait(2)
    expect((await world.deliveries(hook.id))[0]).toMatchObject({ error: 'status', response_status: 302 })
    expect(world.receiver.received('/elsewhere')).toEqual([])
  })
})

/** Without a token, which ends while the clock advances. */
const statesOfRows = async (id: string) =>
  (await world.sql<{ state: string }[]>`select state from webhook_deliveries where webhook_id = ${id}`).map(
    ({ state }) => state,
  )

describe('a webhook', () => {
  test('that hangs has 4 requests under way, and holds up no other webhook', async () => {
    const [slow, quick] = [await world.webhook(['user.created']), await world.webhook(['user.created'])]
    let hanging = 0
    world.receiver.setReply(({ path }) => {
      if (path !== slow.path) return 200
      hanging += 1
      return 'hang'
    })
    await recordMany(12)
    world.sender.wake()
    for (const giveUpAt = performance.now() + 10_000; quick.received().length < 12; world.clock.advance(200)) {
      if (performance.now() > giveUpAt) throw new Error('The other webhook waits')
      await Bun.sleep(20)
      world.sender.wake()
    }
    expect(hanging).toBe(4)
    await slow.remove()
    world.receiver.hangUp()
    await world.sender.idle()
  }, 40_000)

  test('that was removed gets nothing more', async () => {
    const hook = await world.webhook(['user.created'])
    await recordMany(3)
    await world.signIn()
    expect((await hook.remove()).status).toBe(204)
    world.clock.advance(100_000)
    await world.work()
    expect(hook.received()).toEqual([])
    await world.sender.purge()
    expect(await world.sql`select from webhook_deliveries where webhook_id = ${hook.id}`).toHaveLength(0)
  })

  test('gets each event again that is replayed, with the same id, and 404 for an event of another webhook', async () => {
    const [hook, other] = [await world.webhook(['user.created']), await world.webhook(['user.closed'])]
    const [id] = await recordMany(1)
    await hook.wait(1)
    await world.signIn()
    const replay = (webhook: string, event: string) =>
      world.client.post(`/api/v1/webhooks/${webhook}/deliveries/${event}/replay`, undefined, operator())
    expect((await replay(hook.id, id as string)).status).toBe(204)
    expect(idsOf(await hook.wait(2))).toEqual([id as string, id as string])
    expect(outcomeOf(await replay(other.id, id as string))).toBe('404 webhook.delivery_not_found')
    expect(outcomeOf(await replay(hook.id, unknownId))).toBe('404 webhook.delivery_not_found')
  })

  test('of a team is not sent while its responsible admin has no right, and all is sent when another takes it over', async () => {
    const [owner, admin] = [await register(world.client), await register(world.client)]
    const team = (await world.client.post('/api/v1/teams', { name: 'A team' }, owner)).body.id
    await world.sql`insert into team_members (team_id, user_id, role) values (${team}, ${admin.id}, 'admin')`
    const root = `/api/v1/teams/${team}/webhooks`
    const asked = { url: 'https://receiver.invalid/', events: ['team.member_removed'] }
    const { id } = (await world.client.post(root, asked, admin)).body
    const attempts = async () => {
      const rows = await world.sql<{ attempts: number }[]>`
        select attempts from webhook_deliveries where webhook_id = ${id}`
      return rows.map((row) => row.attempts)
    }
    await world.client.delete(`/api/v1/teams/${team}/members/${admin.id}`, owner)
    await world.until(async () => (await attempts()).length === 1, 'the event')
    world.clock.advance(5_000)
    await world.work()
    expect(await attempts()).toEqual([0])
    expect((await world.client.patch(`${root}/${id}`, { url: asked.url }, owner)).body.status).toBe('active')
    await world.until(async () => ((await attempts())[0] ?? 0) > 0, 'the attempt')
  }, 20_000)
})

test('two instances send each event once, in order', async () => {
  const config = { webhookInternalHosts: [world.receiver.host] }
  const other = await startApp({ connection: world.app.connection, clock: world.clock, config })
  try {
    const hook = await world.webhook(['user.created'])
    const expected = await recordMany(60, () => 'user:one')
    await world.until(async () => {
      other.services.webhookSender.wake()
      await other.services.webhookSender.idle()
      return hook.received().length >= 60
    }, 'all')
    expect(idsOf(hook.received())).toEqual(expected)
  } finally {
    await other.close()
  }
}, 30_000)

test('events are signed with the secret of the webhook also after SECRET was replaced', async () => {
  const hook = await world.webhook(['user.created'])
  const secret = 'another secret of tests, which replaces the first'
  const config = { webhookInternalHosts: [world.receiver.host], secret, previousSecret: testSecret }
  const next = await startApp({ connection: world.app.connection, clock: world.clock, config })
  try {
    await record('user.created', 'user:one')
    const { webhookSender: sender } = next.services
    // The first instance does not know the new secret, and its timer may lease the delivery in vain, for a minute.
    for (let step = 0; hook.received().length === 0 && step < 1_000; step += 1) {
      sender.wake()
      await sender.idle()
      world.clock.advance(1_500)
    }
    const [request] = hook.received()
    if (request === undefined) throw new Error('No request')
    expect(isSignedBy(request, hook.secret)).toBe(true)
  } finally {
    await next.close()
  }
}, 30_000)
