import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { openEvents } from '../harness/events.ts'
import { type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const path = '/api/v1/generations'
const refused = '403 generation.stream_ticket_refused'

/** Two instances over one database: a ticket of one opens a stream on the other. */
const clock = manualClock(Date.now())
let here: TestApp
let there: TestApp
let sql: Sql
let client: Api
let ada: Person
let bea: Person
let generation: string
let other: string
beforeAll(async () => {
  here = await startApp({ clock, config: { dbConnections: 40 } })
  there = await startApp({ clock, connection: here.connection, config: { dbConnections: 40 } })
  sql = connectOnce(here.connection)
  client = api(here.baseUrl)
  ada = await register(client)
  bea = await register(client)
  generation = await order(ada)
  other = await order(ada)
})
afterAll(async () => {
  await sql?.end()
  await there?.close()
  await here?.close()
})

const order = async ({ token }: Person): Promise<string> =>
  (await client.post(path, { model: 'local/procedural', prompt: 'p' }, { token })).body.id
const ask = ({ token }: Person, id = generation) => client.post(`${path}/${id}/stream-tickets`, undefined, { token })
const issue = async (person: Person, id = generation): Promise<string> => {
  const { status, body } = await ask(person, id)
  expect(status).toBe(201)
  return body.ticket
}
const open = async (ticket: string, { id = generation, app = here, method = 'GET', headers = {} } = {}) => {
  const response = await fetch(`${app.baseUrl}${path}/${id}/stream?ticket=${ticket}`, { method, headers })
  if (response.status >= 400 && method === 'GET')
    return `${response.status} ${((await response.json()) as { code: string }).code}`
  await response.body?.cancel()
  return String(response.status)
}

describe('a stream ticket', () => {
  test('opens the stream without an access token, on any instance, and the stream is that of a token', async () => {
    const { body, headers } = await ask(ada)
    const { ticket, url } = body
    expect(url).toBe(`${here.baseUrl}${path}/${generation}/stream?ticket=${ticket}`)
    expect(headers.get('location')).toBe(new URL(url).pathname + new URL(url).search)
    expect(Date.parse(body.expires_at) - here.services.clock.now()).toBe(60_000)
    const stream = await openEvents(`${there.baseUrl}${path}/${generation}/stream?ticket=${ticket}`)
    while (stream.events.length === 0) await Bun.sleep(5)
    expect(stream.events[0]).toMatchObject({ event: 'status', data: { status: 'queued' } })
    stream.close()
  })

  test('opens one stream only, also where it is used a hundred times at once on two instances', async () => {
    const ticket = await issue(ada)
    expect([await open(ticket), await open(ticket), await open(ticket, { app: there })]).toEqual([
      '200',
      refused,
      refused,
    ])
    const flooded = await issue(ada)
    const answers = await Promise.all(
      Array.from({ length: 100 }, (_, at) => open(flooded, { app: at % 2 === 0 ? here : there })),
    )
    expect([
      answers.filter((each) => each === '200').length,
      answers.filter((each) => each === refused).length,
    ]).toEqual([1, 99])
  })

  test('is not used up by a request for the headers alone', async () => {
    const ticket = await issue(ada)
    expect([
      await open(ticket, { method: 'HEAD' }),
      await open(ticket),
      await open(ticket, { method: 'HEAD' }),
    ]).toEqual(['200', '200', '200'])
    expect(await open(ticket)).toBe(refused)
  })

  test('is refused from a minute after it was made', async () => {
    const [first, second] = [await issue(ada), await issue(ada)]
    clock.advance(59_000)
    expect(await open(first)).toBe('200')
    clock.advance(1_000)
    expect(await open(second)).toBe(refused)
  })

  test('is refused for another generation, with any bit changed, and in any other spelling', async () => {
    const ticket = await issue(ada)
    expect(await open(ticket, { id: other })).toBe(refused)
    const bytes = Buffer.from(ticket, 'base64url')
    for (let bit = 0; bit < bytes.length * 8; bit += 1) {
      const changed = Buffer.from(bytes)
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      const answer = await open(changed.toString('base64url'))
      if (answer !== refused) expect([bit, answer]).toEqual([bit, refused])
    }
    for (const text of [
      '',
      'x',
      ticket.slice(1),
      `${ticket}A`,
      `${ticket}=`,
      'A'.repeat(ticket.length),
      'A'.repeat(9_000),
    ])
      expect([text.length, await open(text)]).toEqual([text.length, refused])
    expect(await open(`${ticket}&ticket=${ticket}`)).toBe(refused)
    expect(await open(ticket)).toBe('200')
  }, 60_000)

  test('is no access token, no refresh token, no device token and no link', async () => {
    const ticket = await issue(ada)
    const as = async (headers: Record<string, string>) => (await client.get('/api/v1/auth/me', { headers })).status
    expect(await as({ authorization: `Bearer ${ticket}` })).toBe(401)
    expect(await as({ cookie: `__Host-velro_access=${ticket}` })).toBe(401)
    expect((await client.post('/api/v1/auth/refresh', { refresh_token: ticket.slice(0, 43) })).status).toBe(401)
    expect((await client.get(`/api/v1/media/${generation}/content?signature=${ticket}`)).body.code).toBe(
      'media.link_refused',
    )
    for (const text of [ada.token, ada.refreshToken]) expect(await open(text)).toBe(refused)
    expect(await open(ticket)).toBe('200')
  })

  test('cannot be asked for by who may not read the generation', async () => {
    expect((await ask(bea)).body.code).toBe('generation.not_found')
    expect((await client.post(`${path}/${generation}/stream-tickets`)).body.code).toBe('identity.not_signed_in')
    expect((await ask(ada, bea.id)).body.code).toBe('generation.not_found')
  })

  test('takes the place of an access token, so that one of another account does not help', async () => {
    const ticket = await issue(ada)
    await open(ticket)
    const headers = { authorization: `Bearer ${ada.token}` }
    expect(await open(ticket, { headers })).toBe(refused)
    const mine = await issue(bea, await order(bea))
    expect(await open(mine, { headers })).toBe(refused)
  })

  test('is refused once the right to read, the session or the account is gone', async () => {
    const project = (await client.post('/api/v1/projects', { name: 'P', visibility: 'public' }, { token: ada.token }))
      .body
    const input = { model: 'local/procedural', prompt: 'p', project_id: project.id }
    const shared = (await client.post(path, input, { token: ada.token })).body.id
    const ofBea = await issue(bea, shared)
    await client.patch(`/api/v1/projects/${project.id}`, { visibility: 'private' }, { token: ada.token })
    expect(await open(ofBea, { id: shared })).toBe(refused)
    expect(await open(ofBea, { id: shared, app: there })).toBe(refused)
    const cleo = await register(client)
    const own = await order(cleo)
    const [first, second] = [await issue(cleo, own), await issue(cleo, own)]
    expect(await open(first, { id: own })).toBe('200')
    await client.post('/api/v1/auth/logout', undefined, { token: cleo.token })
    expect(await open(second, { id: own, app: there })).toBe(refused)
  })

  test('ends with the access token that it was asked for with', async () => {
    const dora = await register(client)
    const own = await order(dora)
    clock.advance(880_000)
    const { body } = await ask(dora, own)
    expect(Date.parse(body.expires_at) - here.services.clock.now()).toBeLessThanOrEqual(20_000)
    clock.advance(20_000)
    expect(await open(body.ticket, { id: own })).toBe(refused)
  })

  test('leaves a row that names nobody, until it has expired', async () => {
    const rows = async () => (await sql`select id from used_stream_tickets`).length
    expect(await rows()).toBeGreaterThan(3)
    clock.advance(3_600_000)
    await here.services.streamTickets.purge()
    expect(await rows()).toBe(0)
  })
})
