import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createAccountHash } from '../../src/identity/account-hash.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { createKeyedHash, createSecrets, sha256 } from '../../src/platform/secrets.ts'
import { type Answer, type Api, api, type Person, register, startApp, type TestApp, testSecret } from '../harness.ts'

const perAddress = 5
/** The hash of a database that began under this secret. */
const hashUnder = (secret: string) => createKeyedHash((name) => createSecrets(secret).wrappedKey(name, 'current'))

let app: TestApp
let sql: Sql
let client: Api
let operator: Person
beforeAll(async () => {
  app = await startApp({
    config: {
      welcomeAfter: 'verification',
      welcomeAccountsPerAddress: perAddress,
      trustedProxies: ['127.0.0.1'],
      dbConnections: 60,
    },
  })
  sql = connectOnce(app.connection)
  client = api(app.baseUrl)
  operator = await registerFrom('203.0.113.1')
  await sql`update users set role = 'admin' where id = ${operator.id}`
  await app.caughtUp()
})
afterAll(async () => {
  await sql?.end()
  await app?.close()
})

let registered = 0
const registerFrom = async (address: string): Promise<Person> => {
  registered += 1
  const credentials = { email: `person-${registered}@example.com`, password: 'seven green bottles hanging' }
  const headers = { 'x-forwarded-for': address }
  const { status, body } = await client.post('/api/v1/auth/register', credentials, { headers })
  expect(status).toBe(201)
  return {
    ...credentials,
    token: body.access_token,
    refreshToken: body.refresh_token,
    id: body.user.id,
    user: body.user,
  }
}
const verify = ({ id }: Person, email_verified = true): Promise<Answer> =>
  client.patch(`/api/v1/users/${id}`, { email_verified }, { token: operator.token })
const balanceOf = async ({ token }: Person): Promise<number> =>
  (await client.get('/api/v1/credits/balance', { token })).body.balance
const countCredited = async (people: readonly Person[]) => {
  const ids = people.map(({ id }) => id)
  const rows = await sql`select from credit_ledger where kind = 'welcome' and user_id = any (${ids}::uuid[])`
  return rows.length
}
const isPending = async ({ id }: Person) => (await sql`select from pending_welcomes where user_id = ${id}`).length === 1

describe('welcome credits after verification', () => {
  test('are given once, when an operator says that the e-mail address is verified', async () => {
    const ada = await registerFrom('198.51.100.7')
    expect([ada.user.email_verified, await balanceOf(ada), await isPending(ada)]).toEqual([false, 0, true])
    const answer = await verify(ada)
    expect([answer.status, answer.body.email_verified, await balanceOf(ada), await isPending(ada)]).toEqual([
      200,
      true,
      1_000,
      false,
    ])
    const { body } = await client.get('/api/v1/auth/me', { token: ada.token })
    expect(body.email_verified).toBe(true)
    await Promise.all(Array.from({ length: 5 }, () => verify(ada)))
    expect((await verify(ada, false)).body.email_verified).toBe(false)
    await verify(ada)
    expect([await balanceOf(ada), await countCredited([ada])]).toEqual([1_000, 1])
  })

  test('are withheld beyond the accounts of one address and day, however many are verified at once', async () => {
    const people = await Promise.all(Array.from({ length: 20 }, () => registerFrom('198.51.100.8')))
    const answers = await Promise.all(people.map((person) => verify(person)))
    expect(answers.map(({ body }) => body.email_verified)).toEqual(people.map(() => true))
    expect(await countCredited(people)).toBe(perAddress)
    await Promise.all(people.map((person) => verify(person)))
    expect(await countCredited(people)).toBe(perAddress)
    const elsewhere = await registerFrom('198.51.100.9')
    await verify(elsewhere)
    expect(await balanceOf(elsewhere)).toBe(1_000)
    // Another verification on the next day gives them.
    await sql`update welcome_grants set day = day - 1`
    await Promise.all(people.map((person) => verify(person)))
    expect(await countCredited(people)).toBe(2 * perAddress)
    await sql`update welcome_grants set day = day - 2`
    await app.services.welcome.purge()
    expect(await sql`select from welcome_grants`).toHaveLength(0)
  })

  test('count an IPv6 address as its /64 network, and an IPv4-mapped one as IPv4', async () => {
    const register = (addresses: readonly string[]) => Promise.all(addresses.map(registerFrom))
    const network = await register(Array.from({ length: 8 }, (_, index) => `2001:db8:1:2:${index}::${index + 1}`))
    const other = await register(['2001:db8:1:3::1'])
    const mapped = await register(Array.from({ length: 4 }, () => '::ffff:198.51.100.10'))
    const plain = await register(Array.from({ length: 4 }, () => '198.51.100.10'))
    for (const person of [...network, ...other, ...mapped, ...plain]) await verify(person)
    expect([await countCredited(network), await countCredited(other)]).toEqual([perAddress, 1])
    expect(await countCredited([...mapped, ...plain])).toBe(perAddress)
  })

  test('are no longer pending once the account is closed, and the address of the registration is erased', async () => {
    const ada = await registerFrom('198.51.100.11')
    expect((await client.delete('/api/v1/auth/me', { token: ada.token })).status).toBe(204)
    expect(await isPending(ada)).toBe(false)
    expect((await verify(ada)).body.code).toBe('user.deleted')
  })

  test('are given at registration where the deployment says so, up to the limit of the address', async () => {
    const atOnce = await startApp({
      connection: app.connection,
      config: { welcomeAfter: 'registration', welcomeAccountsPerAddress: 2, dbConnections: 20 },
    })
    const on = api(atOnce.baseUrl)
    const balances: number[] = []
    for (let count = 0; count < 3; count += 1) {
      const credentials = { email: `at-once-${count}@example.com`, password: 'seven green bottles hanging' }
      const { body } = await on.post('/api/v1/auth/register', credentials)
      balances.push((await on.get('/api/v1/credits/balance', { token: body.access_token })).body.balance)
    }
    expect(balances).toEqual([1_000, 1_000, 0])
    await atOnce.close()
  })
})

describe('an e-mail address that has had its welcome credits', () => {
  let atOnce: TestApp
  beforeAll(async () => {
    atOnce = await startApp({
      connection: app.connection,
      config: { welcomeAfter: 'registration', welcomeAccountsPerAddress: 0, dbConnections: 20 },
    })
  })
  afterAll(() => atOnce.close())
  let named = 0
  const newEmail = () => {
    named += 1
    return `again-${named}@example.com`
  }
  const password = 'seven green bottles hanging'
  const registerOn = (email: string, on = api(atOnce.baseUrl)) => register(on, { email, password })
  const close = async ({ token }: Person) =>
    expect((await client.delete('/api/v1/auth/me', { token })).status).toBe(204)

  test('gets none again where the account is closed and registered again, in any spelling', async () => {
    const email = newEmail()
    let person = await registerOn(email)
    expect(await balanceOf(person)).toBe(1_000)
    for (const spelling of [email, email.toUpperCase(), email]) {
      await close(person)
      person = await registerOn(spelling)
      expect([await balanceOf(person), await isPending(person)]).toEqual([0, false])
    }
  })

  test('gets none again after verification, though the account is another', async () => {
    const email = newEmail()
    const first = await registerOn(email, client)
    await verify(first)
    expect(await balanceOf(first)).toBe(1_000)
    await close(first)
    const again = await registerOn(email, client)
    expect(await isPending(again)).toBe(true)
    expect((await verify(again)).body.email_verified).toBe(true)
    expect([await balanceOf(again), await isPending(again)]).toEqual([0, false])
  })

  test('gets none again where the account has taken another address since', async () => {
    const email = newEmail()
    const first = await registerOn(email)
    await sql`update users set email = ${newEmail()} where id = ${first.id}`
    expect(await balanceOf(await registerOn(email))).toBe(0)
  })

  test('gets none again where it had them before addresses were remembered, because closing remembers it', async () => {
    const email = newEmail()
    const first = await registerOn(email)
    await sql`truncate welcomed_addresses`
    await close(first)
    expect(await balanceOf(await registerOn(email))).toBe(0)
  })

  test('gets them where the account was closed before it had them', async () => {
    const email = newEmail()
    await close(await registerOn(email, client))
    const again = await registerOn(email, client)
    await verify(again)
    expect(await balanceOf(again)).toBe(1_000)
  })

  test('is forgotten after 400 days', async () => {
    const [early, late] = [newEmail(), newEmail()]
    for (const email of [early, late]) await close(await registerOn(email))
    const age = async (days: number) =>
      sql`update welcomed_addresses set remembered_at = clock_timestamp() - ${days}::float8 * interval '1 day'`
    await age(399)
    await atOnce.services.welcome.purge()
    expect(await balanceOf(await registerOn(early))).toBe(0)
    await age(401)
    expect(await balanceOf(await registerOn(late))).toBe(1_000)
    await atOnce.services.welcome.purge()
    expect(await sql`select from welcomed_addresses`).toHaveLength(1)
  })

  test('is stored as a keyed hash alone', async () => {
    await sql`truncate welcomed_addresses`
    const email = newEmail()
    await registerOn(email)
    const rows = await sql<{ address_hash: Uint8Array }[]>`select address_hash from welcomed_addresses`
    const keyedHash = hashUnder(testSecret)
    const hashOf = createAccountHash(keyedHash, 'welcome-credits')
    expect(rows.map(({ address_hash }) => Buffer.from(address_hash))).toEqual([Buffer.from(hashOf(email))])
    for (const guess of [hashUnder('y'.repeat(32))('welcome-credits', Buffer.from(email)), sha256(Buffer.from(email))])
      expect(Buffer.from(guess)).not.toEqual(Buffer.from(hashOf(email)))
    expect(createAccountHash(keyedHash, 'sign-in-failures')(email)).not.toEqual(hashOf(email))
    expect(Buffer.from(hashOf(email)).toString('latin1')).not.toContain('again')
  })
})
