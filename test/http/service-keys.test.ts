import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { newId } from '../../src/kit/id.ts'
import { createLog } from '../../src/platform/log.ts'
import { createKeyUsage } from '../../src/service-keys/usage.ts'
import { type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const path = '/api/v1/service-keys'

let app: TestApp
let client: Api
let admin: Person
let ada: Person
let statements: string[] = []
const written: string[] = []
const clock = manualClock(Date.now())
/** The time of the service, which is corrected to that of Postgres once, at the start. */
const now = () => app.services.clock.now()

beforeAll(async () => {
  app = await startApp({
    clock,
    onStatement: (text) => {
      statements.push(text)
    },
    log: createLog('trace', { write: (line: string) => void written.push(line) }),
  })
  client = api(app.baseUrl)
  admin = await register(client)
  ada = await register(client)
  await app.services.database.admin`update users set role = 'admin' where id = ${admin.id}`
})
afterAll(() => app?.close())

const make = async (input: object = {}) => {
  const answer = await client.post(
    path,
    { name: 'gateway', scopes: ['authorization:check'], ...input },
    { token: admin.token },
  )
  expect(answer.status).toBe(201)
  return answer.body
}

const question = () => ({
  user_id: ada.id,
  action: 'read',
  resource: { type: 'project', id: '00000000-0000-7000-8000-000000000001' },
})
const check = (key: string, body: object = question()) =>
  client.post('/api/v1/authorization/check', body, { token: key })

const row = async (id: string) => {
  const [found] = await app.services.database.admin`select * from service_keys where id = ${id}`
  return found as { secret_hash: Uint8Array; last_used_at: Date | null }
}

describe('a service key', () => {
  test('is shown once, grants the routes of its scopes, and is listed without its secret', async () => {
    const made = await make({ name: 'the gateway', expires_at: new Date(now() + 60_000).toISOString() })
    expect(made.key).toMatch(/^vsk_[A-Za-z0-9_-]{64}$/)
    expect(made).toMatchObject({ name: 'the gateway', scopes: ['authorization:check'], created_by: admin.id })
    expect((await check(made.key)).status).toBe(200)
    const { body } = await client.get(`${path}?limit=1`, { token: admin.token })
    const { key: _, ...shown } = made
    expect(body.items).toEqual([shown])
  })

  test('without the required scope gets 403, and cannot be created with an unknown scope (422)', async () => {
    const made = await make()
    const { status, body } = await client.get(
      `/api/v1/authorization/accessible?type=project&action=read&user_id=${ada.id}`,
      { token: made.key },
    )
    expect([status, body.code]).toEqual([403, 'service_key.scope_missing'])
    for (const scopes of [['everything'], [], ['authorization:check', 'authorization:check'], 'authorization:check']) {
      const refused = await client.post(path, { name: 'n', scopes }, { token: admin.token })
      expect([scopes, refused.status]).toEqual([scopes, 422])
    }
  })

  test('is refused on routes for users', async () => {
    const { key } = await make({ scopes: ['authorization:check', 'authorization:list'] })
    const closed = {
      'access.people_only': [path, '/api/v1/auth/sessions', '/api/v1/credits/balance', '/api/v1/security/flags'],
      'service_key.scope_missing': ['/api/v1/auth/me', '/api/v1/projects', '/api/v1/users'],
    }
    for (const [code, paths] of Object.entries(closed)) {
      for (const each of paths) {
        const { status, body, headers } = await client.get(each, { token: key })
        expect([each, status, body.code]).toEqual([each, 403, code])
        expect(headers.get('www-authenticate')).toBe('Bearer error="insufficient_scope"')
      }
    }
  })

  test('is refused in any other spelling: wrong character, length, case or padding', async () => {
    const { key } = await make()
    const spellings = [
      `${key}=`,
      `${key}\t${key}`,
      key.slice(0, -1),
      `${key}A`,
      key.toUpperCase(),
      key.slice(4),
      `vsk-${key.slice(4)}`,
      'vsk_',
      `vsk_${'A'.repeat(2_000)}`,
      ...Array.from({ length: key.length - 4 }, (_, at) => {
        const wrong = key[at + 4] === 'A' ? 'B' : 'A'
        return key.slice(0, at + 4) + wrong + key.slice(at + 5)
      }),
    ]
    for (const spelling of spellings) {
      const { status, body } = await check(spelling)
      expect([spelling, status, body.code]).toEqual([spelling, 401, 'identity.not_signed_in'])
    }
    expect((await check(key)).status).toBe(200)
    // RFC 9110 allows several spaces after the scheme.
    expect((await check(` ${key}`)).status).toBe(200)
  })

  test('is refused at the first request after it was revoked, although it was cached', async () => {
    for (let times = 0; times < 10; times += 1) {
      const { id, key } = await make()
      expect((await check(key)).status).toBe(200)
      expect((await client.delete(`${path}/${id}`, { token: admin.token })).status).toBe(204)
      expect((await check(key)).status).toBe(401)
    }
  })

  test('gives 404 when revoked twice or unknown, and stays in the list with the time of revocation', async () => {
    const { id } = await make()
    await client.delete(`${path}/${id}`, { token: admin.token })
    for (const unknown of [id, newId()]) {
      const { status, body } = await client.delete(`${path}/${unknown}`, { token: admin.token })
      expect([status, body.code]).toEqual([404, 'service_key.not_found'])
    }
    const { body } = await client.get(`${path}?limit=1`, { token: admin.token })
    expect(body.items[0]).toMatchObject({ id, revoked_at: new Date(now()).toISOString() })
  })

  test('is refused from its expiry on, also while it is cached', async () => {
    const { key } = await make({ expires_at: new Date(now() + 10_000).toISOString() })
    expect((await check(key)).status).toBe(200)
    clock.advance(9_999)
    expect((await check(key)).status).toBe(200)
    clock.advance(1)
    expect((await check(key)).status).toBe(401)
  })

  test('cannot be created with an expiry in the past or on an impossible date', async () => {
    for (const expires_at of [new Date(now()).toISOString(), '2999-02-31T00:00:00Z', 'tomorrow', 3]) {
      const refused = await client.post(
        path,
        { name: 'n', scopes: ['authorization:check'], expires_at },
        { token: admin.token },
      )
      expect([expires_at, refused.status]).toEqual([expires_at, 422])
    }
  })

  test('costs one statement when it is not cached and none when it is', async () => {
    const { key } = await make()
    await check(key)
    await app.leased()
    app.services.caches.facts.invalidate('everything')
    statements = []
    await check(key)
    // One for the key and then one for the facts: nothing is loaded for a key that is not yet verified.
    expect(statements).toHaveLength(2)
    await check(key)
    expect(statements).toHaveLength(2)
  })
})

describe('of a service key', () => {
  test('neither database nor log holds a usable secret', async () => {
    const { id, key } = await make()
    await check(key)
    await check(`${key.slice(0, -2)}AA`)
    const secret = Buffer.from(key.slice(4), 'base64url').subarray(16)
    const { secret_hash } = await row(id)
    expect(secret_hash).toHaveLength(32)
    expect(Buffer.from(secret_hash).equals(secret)).toBeFalse()
    const tables = await app.services.database.admin<{ text: string }[]>`
      select string_agg(k::text, '') as text from service_keys k`
    const dump = `${tables[0]?.text}${written.join('')}`
    for (const usable of [
      key,
      key.slice(4),
      key.slice(30),
      secret.toString('hex'),
      secret.toString('base64'),
      secret.toString('base64url'),
    ]) {
      expect(dump.includes(usable)).toBeFalse()
    }
    // The stored hash is not accepted as a secret either.
    const forged = Buffer.concat([Buffer.from(id.replaceAll('-', ''), 'hex'), Buffer.from(secret_hash)])
    expect((await check(`vsk_${forged.toString('base64url')}`)).status).toBe(401)
  })

  test('the last use is written later, in one statement for all keys, and not by the request', async () => {
    const made = [await make(), await make(), await make()]
    for (const { key } of made) for (let times = 0; times < 5; times += 1) await check(key)
    for (const { id } of made) expect((await row(id)).last_used_at).toBeNull()
    expect(statements.some((text) => text.includes('last_used_at ='))).toBeFalse()
    const writes: number[] = []
    const usage = createKeyUsage({
      clock,
      store: {
        recordUses: async (uses) => {
          writes.push(uses.size)
        },
      },
    })
    for (const { id } of made) for (let times = 0; times < 5; times += 1) usage.record(id)
    await usage.flush()
    await usage.flush()
    expect(writes).toEqual([3])
  })

  test('the last use is written by the next flush when a flush failed, the later of two uses winning', async () => {
    let broken = true
    const stored: ReadonlyMap<string, number>[] = []
    const usage = createKeyUsage({
      clock,
      store: {
        recordUses: async (uses) => {
          if (broken) throw new Error('no database')
          stored.push(uses)
        },
      },
    })
    usage.record('one')
    usage.record('other')
    const failed = usage.flush()
    clock.advance(5)
    usage.record('one')
    expect(failed).rejects.toThrow('no database')
    await failed.catch(() => {})
    broken = false
    await usage.flush()
    expect(stored).toEqual([
      new Map([
        ['one', clock.now()],
        ['other', clock.now() - 5],
      ]),
    ])
  })
})

describe('only an operator', () => {
  test('can create, list and revoke service keys', async () => {
    const { id } = await make()
    const calls = (token?: string) => {
      const sending = token === undefined ? {} : { token }
      return [
        client.post(path, { name: 'n', scopes: ['authorization:check'] }, sending),
        client.get(path, sending),
        client.delete(`${path}/${id}`, sending),
      ]
    }
    for (const { status, body } of await Promise.all(calls(ada.token))) {
      expect([status, body.code]).toEqual([403, 'access.admins_only'])
    }
    for (const { status } of await Promise.all(calls())) expect(status).toBe(401)
  })

  test('can create service keys, and sets only name, scopes and expiry', async () => {
    for (const extra of [
      { id: newId() },
      { created_by: ada.id },
      { secret_hash: 'x' },
      { revoked_at: null },
      { key: 'vsk_' },
    ]) {
      const refused = await client.post(
        path,
        { name: 'n', scopes: ['authorization:check'], ...extra },
        { token: admin.token },
      )
      expect([extra, refused.status]).toEqual([extra, 422])
    }
  })

  test('can page through all service keys, newest first', async () => {
    await make()
    await make()
    const { body: whole } = await client.get(`${path}?limit=100`, { token: admin.token })
    const ids: string[] = []
    for (let cursor = ''; ; ) {
      const { body } = await client.get(`${path}?limit=3${cursor}`, { token: admin.token })
      ids.push(...body.items.map(({ id }: { id: string }) => id))
      if (body.next_cursor === null) break
      cursor = `&cursor=${body.next_cursor}`
    }
    expect(ids).toEqual(whole.items.map(({ id }: { id: string }) => id))
    expect(ids).toEqual([...ids].sort().reverse())
  })
})

test('the last uses of service keys are written when the service closes', async () => {
  const other = await startApp({ connection: app.connection })
  const { id, key } = await make()
  await api(other.baseUrl).post('/api/v1/authorization/check', question(), { token: key })
  await other.close()
  expect((await row(id)).last_used_at).toBeInstanceOf(Date)
})
