import { afterAll, beforeAll, expect, test } from 'bun:test'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const path = '/api/v1/generations'
const small = { model: 'local/procedural', prompt: 'a lighthouse', parameters: { width: 64, height: 64 } }
const large = { ...small, parameters: { width: 2_048, height: 2_048 }, outputs: 4 }

let app: TestApp
let sql: Sql
let client: Api

beforeAll(async () => {
  app = await startApp({ config: { jobConcurrency: 1, renderWorkers: 1 } })
  sql = connectOnce(app.connection)
  client = api(app.baseUrl)
})
afterAll(async () => {
  await sql?.end()
  await app?.close()
})

test('a single worker leases jobs by plan, enterprise before pro before free, and within a plan in turns of the owners', async () => {
  const persons: Record<string, Person> = {}
  for (const plan of ['free', 'other', 'pro', 'enterprise']) {
    const person = await register(client)
    if (plan !== 'other') await sql`update users set plan = ${plan} where id = ${person.id}`
    persons[plan] = person
  }
  const names = new Map<string, string>()
  const order = async (plan: string, input: object = small) => {
    const { status, body } = await client.post(path, input, { token: persons[plan]?.token ?? '' })
    expect(status).toBe(201)
    names.set(body.id, `${plan} ${names.size}`)
    return body.id as string
  }
  /** Keeps the worker busy until the returned function is called. */
  const occupy = async (plan: string) => {
    const id = await order(plan, large)
    await until(
      async () => (await sql`select from generations where id = ${id} and status = 'processing'`).length === 1,
      'the worker is busy',
    )
    return () => client.post(`${path}/${id}/cancel`, undefined, { token: persons[plan]?.token ?? '' })
  }
  const startedInOrder = async () =>
    (await sql<{ id: string }[]>`select id from generations where started_at is not null order by started_at`).map(
      ({ id }) => names.get(id),
    )

  const release = await occupy('free')
  for (const plan of ['free', 'free', 'free', 'pro', 'other', 'enterprise', 'other', 'pro', 'enterprise'])
    await order(plan)
  expect(await startedInOrder()).toEqual(['free 0'])
  await release()
  await until(async () => (await sql`select from generation_jobs`).length === 0, 'all jobs have ended')
  expect(await startedInOrder()).toEqual([
    'free 0',
    'enterprise 6',
    'enterprise 9',
    'pro 4',
    'pro 8',
    'free 1',
    'other 5',
    'free 2',
    'other 7',
    'free 3',
  ])

  const releaseAgain = await occupy('enterprise')
  for (const plan of ['free', 'pro']) await order(plan)
  // The priority is that of the plan at the time of the order.
  await sql`update users set plan = 'enterprise' where id = ${persons['free']?.id ?? ''}`
  await order('free')
  await releaseAgain()
  await until(async () => (await sql`select from generation_jobs`).length === 0, 'all jobs have ended')
  expect((await startedInOrder()).slice(-3)).toEqual(['free 13', 'pro 12', 'free 11'])
}, 60_000)
