import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { Fault } from '../../src/fault.ts'
import { createOneTimeTokenStore } from '../../src/identity/one-time-token-store.ts'
import { createOneTimeTokens, type OneTimeTokens } from '../../src/identity/one-time-tokens.ts'
import { decodeBase64url, encodeBase64url } from '../../src/kit/base64url.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { newId } from '../../src/kit/id.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

let database: TestDatabase
let sql: Sql
let tokens: OneTimeTokens
let userId: string
const clock = manualClock(Date.UTC(2030, 0, 1))
const minuteMs = 60_000

beforeAll(async () => {
  database = await createDatabase()
  sql = connectOnce(database.connection)
  tokens = createOneTimeTokens({ store: createOneTimeTokenStore(sql), clock })
  userId = newId()
  await sql`insert into users (id, email, display_name, password_hash) values (${userId}, 'a@example.com', 'A', 'x')`
})
afterAll(async () => {
  await sql.end()
  await database.drop()
})

const issue = (data: Record<string, unknown> = {}) =>
  sql.begin((tx) => tokens.issue(tx, 'test', userId, 15 * minuteMs, data)) as Promise<{ token: string }>
const use = (token: string, purpose = 'test'): Promise<string> =>
  sql
    .begin((tx) => tokens.use(tx, purpose, token))
    .then(
      () => 'used',
      (error) => {
        if (error instanceof Fault) return `${error.status} ${error.code}`
        throw error
      },
    )
const gone = '410 one_time_token.gone'
const notFound = '404 one_time_token.not_found'

test('a token gives the account and the data that it was issued for', async () => {
  const { token } = await issue({ email: 'b@example.com' })
  const found = await sql.begin((tx) => tokens.find(tx, 'test', token))
  expect(found).toEqual({ userId, createdAt: new Date(clock.now()), data: { email: 'b@example.com' } })
  expect(await sql.begin((tx) => tokens.use(tx, 'test', token))).toEqual(found)
})

describe('a token is refused', () => {
  test('the second time', async () => {
    const { token } = await issue()
    expect([await use(token), await use(token)]).toEqual(['used', gone])
  })

  test('once it has expired, at the millisecond', async () => {
    const [{ token: early }, { token: late }] = [await issue(), await issue()]
    clock.advance(15 * minuteMs - 1)
    expect(await use(early)).toBe('used')
    clock.advance(1)
    expect(await use(late)).toBe(gone)
  })

  test('for another purpose', async () => {
    const { token } = await issue()
    expect([await use(token, 'other'), await use(token)]).toEqual([notFound, 'used'])
  })

  test('with any one bit changed, and in another spelling of its base64url', async () => {
    const { token } = await issue()
    const bytes = decodeBase64url(token) as Uint8Array
    const altered = Array.from({ length: bytes.length * 8 }, (_, bit) => {
      const copy = Uint8Array.from(bytes)
      copy[bit >> 3] = (copy[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      return encodeBase64url(copy)
    })
    const answers = new Set(
      await Promise.all([...altered, `${token}=`, ` ${token}`, token.slice(1), ''].map((each) => use(each))),
    )
    expect([...answers]).toEqual([notFound])
    expect(await use(token)).toBe('used')
  })

  test('when it was revoked with the others of its purpose', async () => {
    const [{ token: one }, { token: other }] = [await issue(), await issue()]
    await sql.begin((tx) => tokens.revoke(tx, userId, ['test']))
    expect([await use(one), await use(other)]).toEqual([gone, gone])
  })

  test('only if it was issued since, where the revocation says so', async () => {
    const { token: before } = await issue()
    clock.advance(1)
    const { token: after } = await issue()
    await sql.begin((tx) => tokens.revokeIssuedSince(tx, userId, ['test'], new Date(clock.now())))
    expect([await use(before), await use(after)]).toEqual(['used', gone])
  })
})

test('of 100 uses at once one succeeds, and the others find the token gone', async () => {
  const { token } = await issue()
  const answers = await Promise.all(Array.from({ length: 100 }, () => use(token)))
  expect(answers.filter((answer) => answer === 'used')).toHaveLength(1)
  expect(answers.filter((answer) => answer === gone)).toHaveLength(99)
})

test('a use that is rolled back leaves the token unused', async () => {
  const { token } = await issue()
  await sql
    .begin(async (tx) => {
      await tokens.use(tx, 'test', token)
      throw new Error('rolled back')
    })
    .catch(() => {})
  expect(await use(token)).toBe('used')
})

test('a copy of the database holds no token', async () => {
  const { token } = await issue()
  const bytes = decodeBase64url(token) as Uint8Array
  const [row] = await sql<{ rows: string }[]>`select string_agg(t::text, ' ') as rows from one_time_tokens t`
  expect(row?.rows).not.toContain(token)
  expect(row?.rows).not.toContain(Buffer.from(bytes).toString('hex'))
})

test('a used token is known as gone until a week after its expiry, and is deleted then', async () => {
  const { token } = await issue()
  await use(token)
  clock.advance(15 * minuteMs + 7 * 86_400_000)
  await tokens.purge()
  expect(await use(token)).toBe(gone)
  clock.advance(1)
  await tokens.purge()
  expect(await use(token)).toBe(notFound)
})
