import { afterAll, beforeAll, beforeEach, expect, test } from 'bun:test'
import { newId } from '../../src/kit/id.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { createDeliveryStore, type UnderWay } from '../../src/webhooks/delivery-store.ts'
import { createDatabase } from '../harness.ts'

let sql: Sql
let drop: () => Promise<void>
const operator = newId()
beforeAll(async () => {
  const database = await createDatabase()
  drop = database.drop
  sql = connectOnce(database.connection)
  await sql`
    insert into users (id, email, display_name, password_hash, role)
    values (${operator}, 'operator@example.com', 'Operator', 'x', 'admin')`
})
afterAll(async () => {
  await sql.end()
  await drop()
})
beforeEach(async () => {
  await sql`delete from webhooks`
  await sql`delete from webhook_events`
})

const addWebhook = async (url: string, team: string | null = null): Promise<string> => {
  const id = newId()
  await sql`
    insert into webhooks (id, team_id, url, events, secret, responsible_id, created_at, updated_at)
    values (${id}, ${team}, ${url}, '{user.created}', 'x', ${operator}, now(), now())`
  return id
}
/** Queues an event of each of these resources, in this order. */
const queue = async (webhook: string, resources: readonly string[], dueInMs = 0): Promise<void> => {
  await sql`
    with added as (
      insert into webhook_events (id, type, resource, data)
      select webhook_event_id(), 'user.created', resource, '{}' from unnest(${[...resources]}::text[]) with ordinality given (resource, n)
       order by n
      returning id, ordinal, resource
    )
    insert into webhook_deliveries (webhook_id, event_id, ordinal, resource, due_at)
    select ${webhook}, id, ordinal, resource, now() + ${dueInMs}::float8 * interval '1 millisecond' from added`
}
const nothing: UnderWay = { webhooks: new Map(), hosts: new Map(), teams: new Map() }
const lease = (underWay: Partial<UnderWay> = {}) => {
  const now = new Date(Date.now() + 1_000)
  return createDeliveryStore(sql).lease({
    now,
    settleMs: 0,
    leaseUntil: new Date(now.getTime() + 60_000),
    limit: 16,
    perWebhook: 4,
    perHost: 8,
    perTeam: 4,
    underWay: { ...nothing, ...underWay },
  })
}
const resourcesOf = async (id: string, ordinals: readonly { event_id: string }[]): Promise<string[]> => {
  const ids = ordinals.map(({ event_id }) => event_id)
  const rows = await sql<{ resource: string }[]>`
    select resource from webhook_deliveries where webhook_id = ${id} and event_id = any (${ids}::uuid[]) order by ordinal`
  return rows.map(({ resource }) => resource)
}
const numbered = (count: number, name: string) => Array.from({ length: count }, (_, index) => `${name}:${index}`)

test('a lease takes the oldest due event of each resource, past any number of resources and events that wait', async () => {
  const hook = await addWebhook('https://one.example/')
  const waiting = numbered(100, 'waiting')
  await queue(hook, waiting, 3_600_000)
  await queue(hook, [...waiting, ...Array.from({ length: 300 }, () => 'busy:1'), 'last:1', 'last:2', 'last:1'])
  const leased = await lease()
  expect(await resourcesOf(hook, leased)).toEqual(['busy:1', 'last:1', 'last:2'])
  expect(new Set(leased.map(({ event_id }) => event_id)).size).toBe(3)
  expect(await lease()).toEqual([])
})

test('webhooks with one host in their URL, in any case and at any path, share its limit, and leave room to others', async () => {
  for (const url of [
    'https://victim.example/a',
    'https://victim.example/b?c',
    'https://victim.example/',
    'https://VICTIM.example/d',
  ])
    await queue(await addWebhook(url), numbered(5, url))
  const other = await addWebhook('https://victim.example:8443/')
  await queue(other, numbered(5, 'other'))
  const leased: string[] = []
  const hosts = new Map<string, number>()
  const webhooks = new Map<string, number>()
  for (let round = 0; round < 6; round += 1) {
    for (const { host, webhook_id } of await lease({ hosts, webhooks })) {
      leased.push(host)
      hosts.set(host, (hosts.get(host) ?? 0) + 1)
      webhooks.set(webhook_id, (webhooks.get(webhook_id) ?? 0) + 1)
    }
  }
  expect(Object.fromEntries(hosts)).toEqual({ 'victim.example': 8, 'victim.example:8443': 4 })
  expect(leased).toHaveLength(12)
})

test('the webhooks of a team share its limit, whichever their hosts', async () => {
  const team = newId()
  await sql`insert into teams (id, name) values (${team}, 'Keepers')`
  await sql`insert into team_members (team_id, user_id, role) values (${team}, ${operator}, 'owner')`
  for (const name of ['a', 'b', 'c']) await queue(await addWebhook(`https://${name}.example/`, team), numbered(3, name))
  const own = await addWebhook('https://a.example/own')
  await queue(own, numbered(3, 'own'))
  const leased = await lease()
  expect(leased.filter(({ team_id }) => team_id === team)).toHaveLength(4)
  expect(leased.filter(({ webhook_id }) => webhook_id === own)).toHaveLength(3)
  expect((await lease({ teams: new Map([[team, 3]]) })).map(({ team_id }) => team_id)).toEqual([team])
})
