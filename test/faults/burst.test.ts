import { afterAll, beforeAll, expect, test } from 'bun:test'
import { api, type Person, register, startApp, type TestApp } from '../harness.ts'
import type { Burst } from './burst-client.ts'

/** Connections at once, and the requests of each. */
const connections = 1_000
const perConnection = 10
const requests = connections * perConnection

let app: TestApp
let person: Person
let body: string
let statements: number

beforeAll(async () => {
  statements = 0
  app = await startApp({
    onStatement: () => {
      statements += 1
    },
  })
  const client = api(app.baseUrl)
  person = await register(client)
  const project = await client.post('/api/v1/projects', { name: 'p', visibility: 'private' }, { token: person.token })
  body = JSON.stringify({ action: 'read', resource: { type: 'project', id: project.body.id } })
})
afterAll(() => app?.close())

/** Answers by status, and the statements that were sent meanwhile. */
const burst = async (given: Partial<Burst> = {}) => {
  const before = statements
  const { port } = new URL(app.baseUrl)
  const options: Burst = {
    port: Number(port),
    path: '/api/v1/authorization/check',
    token: person.token,
    body,
    connections,
    perConnection,
    ...given,
  }
  const script = new URL('./burst-client.ts', import.meta.url).pathname
  const child = Bun.spawn(['bun', script, JSON.stringify(options)], { stdout: 'pipe' })
  const answers = JSON.parse(await new Response(child.stdout).text())
  return { answers, statements: statements - before }
}
const single = () => burst({ connections: 20, perConnection: 5 })

test('a burst of 1,000 connections is answered from memory, because the lease is renewed meanwhile', async () => {
  await single()
  await app.leased()
  const { answers, statements } = await burst()
  expect(answers).toEqual({ 200: requests })
  expect(statements).toBeLessThan(requests / 20)
}, 60_000)

test('a burst without a lease is answered by a bounded number of statements, and memory is used once there is a lease', async () => {
  const { caches, database } = app.services
  // No heartbeat can be sent.
  await database.admin`alter function send_heartbeat rename to missing_heartbeat`
  while (performance.now() < caches.bus.lease.untilMs) await Bun.sleep(5)
  const without = await burst()
  expect(caches.bus.noLeaseReason()).toBeDefined()
  await database.admin`alter function missing_heartbeat rename to send_heartbeat`
  expect(without.answers).toEqual({ 200: requests })
  // Two loads each, for the caller and for the decision, if every request sent its own.
  expect(without.statements).toBeLessThan(requests / 4)
  await app.leased()
  await single()
  const after = await single()
  expect(after.answers).toEqual({ 200: 100 })
  expect(after.statements).toBe(0)
}, 60_000)
