import { afterAll, beforeAll, expect, test } from 'bun:test'
import { newId } from '../../src/kit/id.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { hold, holdUser } from '../faults/support.ts'
import { type Answer, type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

let app: TestApp
let client: Api
let sql: Sql
let admin: Person
let customer: Person
/** Transactions begun: one for each change and one for each retry. */
let begun = 0

beforeAll(async () => {
  app = await startApp({
    // Enough connections for all requests to wait on locks in the database instead of waiting in the pool.
    config: { dbConnections: 100, requestTimeoutMs: 30_000 },
    onStatement: (text) => {
      if (text.startsWith('begin')) begun += 1
    },
  })
  client = api(app.baseUrl)
  sql = connectOnce(app.connection)
  admin = await operator()
  customer = await register(client)
})
afterAll(async () => {
  await sql.end()
  await app.close()
})

const operator = async (): Promise<Person> => {
  const person = await register(client)
  await sql`update users set role = 'admin' where id = ${person.id}`
  return person
}
const outcome = ({ status, body }: Answer) => `${status} ${body?.code ?? ''}`.trim()
const as = ({ token }: Person) => ({ token })
const patch = (by: Person, id: string, changes: object) => client.patch(`/api/v1/users/${id}`, changes, as(by))
const makeKey = (by: Person) =>
  client.post('/api/v1/service-keys', { name: 'made', scopes: ['authorization:check'] }, as(by))
const grant = (by: Person, userId: string, key = newId()) =>
  client.post(
    '/api/v1/credits/grants',
    { user_id: userId, amount: 5, note: 'given' },
    { ...as(by), headers: { 'idempotency-key': key } },
  )

const writes = ['service key', 'revocation of a service key', 'grant', 'grant again', 'flag'] as const

/** One request for each kind of operator write except account changes, ready to send. */
const prepare = async (by: Person): Promise<(() => Promise<Answer>)[]> => {
  const { body: key } = await makeKey(by)
  const replayed = newId()
  expect((await grant(by, customer.id, replayed)).status).toBe(201)
  const sends: Record<(typeof writes)[number], () => Promise<Answer>> = {
    'service key': () => makeKey(by),
    'revocation of a service key': () => client.delete(`/api/v1/service-keys/${key.id}`, as(by)),
    grant: () => grant(by, customer.id),
    'grant again': () => grant(by, customer.id, replayed),
    flag: () => client.put('/api/v1/security/flags', { warm_up: true }, as(by)),
  }
  return writes.map((write) => sends[write])
}

/** Runs `work` while a lock is held, and releases the lock when it has ended, also by failing. */
const releaseAfter = <T>(held: { release(): Promise<void> }, work: () => Promise<T>): Promise<T> =>
  work().finally(held.release)

/** The stored rows that operators write, except accounts. */
const stored = async () => {
  const [row] = await sql`
    select (select jsonb_agg(k order by id) from service_keys k) as keys,
           (select jsonb_agg(l order by id) from credit_ledger l) as ledger,
           (select jsonb_agg(f order by name) from flags f) as flags,
           (select jsonb_agg(i order by key) from idempotency_keys i) as idempotency_keys`
  return { ...row }
}

for (const [name, change, refused] of [
  ['suspended', { status: 'suspended' }, '401 identity.not_signed_in'],
  ['demoted', { role: 'user' }, '403 access.admins_only'],
] as const) {
  test(`an operator who is ${name} after the guard and before the write changes nothing and is refused`, async () => {
    const person = await operator()
    const sends = await prepare(person)
    const before = await stored()
    // The change waits for the account's lock, and the operator's writes wait for the change.
    const held = await holdUser(app.connection, person.id)
    const changed = patch(admin, person.id, change)
    const sent = await releaseAfter(held, async () => {
      await held.waiting(1)
      const started = sends.map((send) => send())
      await held.waiting(1 + started.length)
      return started
    })
    expect(outcome(await changed)).toBe('200')
    const answers = (await Promise.all(sent)).map((answer, index) => [writes[index], outcome(answer)])
    expect(answers).toEqual(writes.map((write) => [write, refused]))
    expect(await stored()).toEqual(before)
  })

  for (const [index, write] of writes.entries()) {
    test(`an operator is ${name} only after its write in progress has committed: ${write}`, async () => {
      const person = await operator()
      const send = (await prepare(person))[index] as () => Promise<Answer>
      const held = await hold(
        app.connection,
        (tx) => tx`lock table service_keys, credit_ledger, flags, idempotency_keys in share mode`,
      )
      const sent = send()
      const changed = await releaseAfter(held, async () => {
        await held.waiting(1)
        const started = [patch(admin, person.id, change)]
        await held.waiting(2)
        return started
      })
      expect((await sent).status).toBeLessThan(300)
      expect((await Promise.all(changed)).map(outcome)).toEqual(['200'])
      expect(outcome(await send())).toBe(refused)
    })
  }
}

test('operators who change and credit each other concurrently take turns and need no retry', async () => {
  const [one, two] = await Promise.all([operator(), operator()])
  for (let round = 0; round < 10; round += 1) {
    begun = 0
    const answers = await Promise.all([
      grant(one, two.id),
      grant(two, one.id),
      patch(one, two.id, { plan: 'pro' }),
      patch(two, one.id, { plan: 'pro' }),
      grant(two, one.id),
      grant(one, two.id),
    ])
    expect(answers.map(outcome)).toEqual(['201', '201', '200', '200', '201', '201'])
    expect(begun).toBe(answers.length)
  }
})
