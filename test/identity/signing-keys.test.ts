import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createSigningKeys, rotation, type SigningKeys } from '../../src/identity/signing-keys.ts'
import { createIdentityStore, type IdentityStore } from '../../src/identity/store.ts'
import { createTokenDigest } from '../../src/identity/token-screening.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { newId } from '../../src/kit/id.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { createSecrets } from '../../src/platform/secrets.ts'
import { headerSegment, signAccessToken, verifyAccessToken } from '../../src/platform/tokens.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

const ttlMs = 900_000
const maxTtlMs = 4 * ttlMs
const policy = { issuer: 'velro', audience: 'velro', ttlMs }
const secrets = createSecrets('one secret for every instance of it')
const digest = createTokenDigest(secrets)
const screening = { digests: [digest], mayVerify: () => true, onForged: () => {} }

let database: TestDatabase
let sql: Sql
let store: IdentityStore

beforeAll(async () => {
  database = await createDatabase()
  sql = connectOnce(database.connection)
  store = createIdentityStore(sql)
})
afterAll(async () => {
  await sql.end()
  await database.drop()
})

/** One instance, started now on the keys that are there. */
const instance = async (clock: ReturnType<typeof manualClock>): Promise<SigningKeys> => {
  const keys = createSigningKeys({ store, secrets, clock, maxTokenTtlMs: maxTtlMs })
  await keys.refresh()
  return keys
}

const sign = (keys: SigningKeys, clock: ReturnType<typeof manualClock>) =>
  signAccessToken(
    keys.signer(),
    policy,
    {
      userId: newId(),
      sessionId: newId(),
      tokenId: newId(),
      issuedAtS: Math.floor(clock.now() / 1_000),
    },
    digest,
  )

describe('signing keys', () => {
  test('instances that start together on an empty table agree on one key', async () => {
    await sql`delete from signing_keys`
    const clock = manualClock()
    const instances = await Promise.all(Array.from({ length: 5 }, () => instance(clock)))
    const kids = new Set(instances.map((keys) => keys.signer().kid))
    expect(kids.size).toBe(1)
    expect(instances[0]?.jwks().keys).toHaveLength(1)
  })

  test('over a year no token is refused while it is in force, by any instance, and keys change', async () => {
    await sql`delete from signing_keys`
    const clock = manualClock()
    const signing = await instance(clock)
    const verifying = await instance(clock)
    const kids = new Set<string>()
    let held = await sign(signing, clock)
    const stepMs = ttlMs - 10_000
    // Around each change of key in steps of a token's life, in between in steps of a day.
    for (let day = 0; day < 365; day += 1) {
      const steps = day % 90 >= 88 || day % 90 <= 1 ? 8 : 1
      for (let step = 0; step < steps; step += 1) {
        clock.advance(stepMs)
        expect(await verifyAccessToken(held, policy, clock, verifying.find, screening)).toBeDefined()
        await signing.refresh()
        kids.add(signing.signer().kid)
        held = await sign(signing, clock)
        expect(await verifyAccessToken(held, policy, clock, verifying.find, screening)).toBeDefined()
      }
      clock.advance(86_400_000 - steps * stepMs)
      await signing.refresh()
      held = await sign(signing, clock)
      await verifying.refresh()
    }
    expect(kids.size).toBe(5)
  })

  test('a key is published a day before it signs', async () => {
    await sql`delete from signing_keys`
    const clock = manualClock()
    const keys = await instance(clock)
    const first = keys.signer().kid
    clock.advance(rotation.signsMs - rotation.publishedAheadMs)
    await keys.refresh()
    expect(keys.jwks().keys).toHaveLength(2)
    expect(keys.signer().kid).toBe(first)
    clock.advance(rotation.publishedAheadMs)
    expect(keys.signer().kid).not.toBe(first)
    expect(keys.jwks().keys).toHaveLength(2)
    // The last token it signed may be good for longer than those of today.
    clock.advance(2 * maxTtlMs - 1)
    expect(keys.jwks().keys).toHaveLength(2)
    clock.advance(1)
    expect(keys.jwks().keys).toHaveLength(1)
  })

  test('a private part is neither in the JWKS nor readable in the table', async () => {
    const keys = await instance(manualClock())
    expect(JSON.stringify(keys.jwks())).not.toContain('"d"')
    const [row] = await sql<{ text: string }[]>`
      select encode(sealed_private_key, 'escape') || public_jwk::text as text from signing_keys`
    expect(row?.text).not.toContain('"d"')
  })

  test('keys sealed under another secret are a clear refusal', async () => {
    const clock = manualClock()
    await instance(clock)
    const stranger = createSigningKeys({ store, secrets: createSecrets('another'), clock, maxTokenTtlMs: maxTtlMs })
    expect(stranger.refresh()).rejects.toThrow('sealed under another SECRET')
  })

  test('that were deleted are replaced, and tokens of theirs are refused', async () => {
    const clock = manualClock()
    const keys = await instance(clock)
    const old = await sign(keys, clock)
    await sql`delete from signing_keys`
    await keys.refresh()
    const renewed = await sign(keys, clock)
    const verify = (token: string) => verifyAccessToken(token, policy, clock, keys.find, screening)
    expect([await verify(old), (await verify(renewed)) !== undefined]).toEqual([undefined, true])
  })

  test('an unknown key id causes at most one reload in five seconds', async () => {
    const clock = manualClock()
    let reads = 0
    const counted = {
      ...store,
      listSigningKeys: (now: Date) => {
        reads += 1
        return store.listSigningKeys(now)
      },
    }
    const keys = createSigningKeys({ store: counted, secrets, clock, maxTokenTtlMs: maxTtlMs })
    await keys.refresh()
    reads = 0
    const unknown = headerSegment(newId())
    await Promise.all(Array.from({ length: 100 }, () => keys.find(unknown)))
    expect(reads).toBe(0)
    clock.advance(5_000)
    await Promise.all(Array.from({ length: 100 }, () => keys.find(unknown)))
    expect(reads).toBe(1)
  })
})
