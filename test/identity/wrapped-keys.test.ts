import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { randomBytes } from 'node:crypto'
import { createSigningKeys } from '../../src/identity/signing-keys.ts'
import { createIdentityStore } from '../../src/identity/store.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import {
  createKeyedHash,
  createSecrets,
  SealRefused,
  type Secrets,
  wrappedKeyNames,
} from '../../src/platform/secrets.ts'
import { createSecretStore } from '../../src/secrets/store.ts'
import { openWrappedKeys } from '../../src/secrets/wrapped-keys.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

const [older, newer] = ['the older secret of this database', 'the newer secret of this database'] as const
let database: TestDatabase
let sql: Sql
beforeAll(async () => {
  database = await createDatabase()
  sql = connectOnce(database.connection)
})
afterAll(async () => {
  await sql.end()
  await database.drop()
})
beforeEach(async () => {
  await sql`truncate signing_keys, wrapped_keys`
})

const message = new TextEncoder().encode('ada@example.com')
/** As a start does it. */
const start = async (secrets: Secrets) => {
  const keys = createSigningKeys({
    store: createIdentityStore(sql),
    secrets,
    clock: manualClock(Date.now()),
    maxTokenTtlMs: 3_600_000,
  })
  await keys.refresh()
  return openWrappedKeys({ store: createSecretStore(sql), secrets })
}
const hashesOf = (hash: Awaited<ReturnType<typeof start>>) =>
  wrappedKeyNames.map((name) => Buffer.from(hash(name, message)).toString('hex'))
/** Those of 0.2.0 with this secret. */
const derived = (secret: string) =>
  hashesOf(createKeyedHash((name) => createSecrets(secret).wrappedKey(name, 'current')))

describe('wrapped keys', () => {
  test('begin as those that 0.2.0 derives from the secret in use, also where SECRET changes with the upgrade', async () => {
    expect(hashesOf(await start(createSecrets(older)))).toEqual(derived(older))
    await sql`truncate wrapped_keys`
    expect(hashesOf(await start(createSecrets(newer, older)))).toEqual(derived(older))
    await sql`truncate wrapped_keys`
    expect(hashesOf(await start(createSecrets(older, newer)))).toEqual(derived(older))
  })

  test('of a new database begin under SECRET', async () => {
    expect(hashesOf(await start(createSecrets(newer, older)))).toEqual(derived(newer))
  })

  test('stay the same when SECRET changes, and on instances that start at once', async () => {
    const first = hashesOf(await start(createSecrets(older)))
    const started = await Promise.all(
      [createSecrets(older), createSecrets(older, newer), createSecrets(newer, older)].map(start),
    )
    for (const hash of started) expect(hashesOf(hash)).toEqual(first)
    await sql`truncate wrapped_keys`
    const together = await Promise.all([createSecrets(older, newer), createSecrets(newer, older)].map(start))
    for (const hash of together) expect(hashesOf(hash)).toEqual(first)
  })

  test('do not depend on a signing key that no secret opens', async () => {
    await start(createSecrets(older))
    await sql`
      insert into signing_keys (kid, public_jwk, sealed_private_key, activates_at, retires_at, expires_at)
      values ('lost', '{}', ${randomBytes(60)}, '2000-01-01', '2000-01-02', '2000-01-03')`
    await sql`truncate wrapped_keys`
    expect(hashesOf(await start(createSecrets(newer, older)))).toEqual(derived(older))
  })

  test('are refused where a value was changed or moved to another name, and where its secret is missing', async () => {
    await start(createSecrets(older))
    const store = createSecretStore(sql)
    await expect(openWrappedKeys({ store, secrets: createSecrets(newer) })).rejects.toThrow(SealRefused)
    await sql`
      update wrapped_keys set sealed_key = (select sealed_key from wrapped_keys where name = 'limits')
       where name = 'welcome-credits'`
    await expect(openWrappedKeys({ store, secrets: createSecrets(older) })).rejects.toThrow(SealRefused)
  })
})
