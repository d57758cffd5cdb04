import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { createIdempotency, type IdempotentRequest, retentionMs } from '../../src/idempotency/idempotency.ts'
import { createIdempotencyStore } from '../../src/idempotency/store.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { newId } from '../../src/kit/id.ts'
import { connect, type Sql } from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

let database: TestDatabase
let sql: Sql
let userId: string
const clock = manualClock(Date.now())
const idempotency = () => createIdempotency({ store: createIdempotencyStore(sql), clock })

const insertUser = async () => {
  const id = newId()
  await sql`
    insert into users (id, email, display_name, password_hash) values (${id}, ${`${id}@example.com`}, 'A user', 'x')`
  return id
}
beforeAll(async () => {
  database = await createDatabase()
  sql = connect(database.connection, { max: 20 })
})
beforeEach(async () => {
  userId = await insertUser()
})
afterAll(async () => {
  await sql?.end({ timeout: 1 })
  await database?.drop()
})

const request = (more: Partial<IdempotentRequest> = {}): IdempotentRequest => ({
  userId,
  route: 'POST /items',
  key: 'k',
  body: { a: 1 },
  ...more,
})
/** Runs a request in a separate transaction; `work` returns the body of the response. */
const once = (asked: IdempotentRequest, work: () => unknown = () => newId()) =>
  sql.begin((tx) => idempotency().once(tx, asked, async () => ({ status: 201, body: await work() })))
const countKeys = async () => (await sql`select key from idempotency_keys where user_id = ${userId}`).length

describe('an idempotency key', () => {
  test('of fifty concurrent requests runs the work once, and all get the same response', async () => {
    let works = 0
    const answers = await Promise.all(
      Array.from({ length: 50 }, () =>
        once(request(), async () => {
          works += 1
          await Bun.sleep(5)
          return { made: newId() }
        }),
      ),
    )
    expect(works).toBe(1)
    expect(answers.filter(({ replayed }) => !replayed)).toHaveLength(1)
    expect(new Set(answers.map(({ status, body }) => `${status} ${JSON.stringify(body)}`)).size).toBe(1)
  })

  test('whose first request is rolled back runs the work of the second, which was waiting', async () => {
    const working = Promise.withResolvers<void>()
    const end = Promise.withResolvers<void>()
    const first = once(request(), async () => {
      working.resolve()
      await end.promise
    }).catch((error) => error.message)
    await working.promise
    const second = once(request(), () => 'the second')
    for (;;) {
      const [row] = await sql<{ waiting: number }[]>`
        select count(*)::int as waiting from pg_locks where not granted and locktype = 'transactionid'`
      if (row?.waiting === 1) break
      await Bun.sleep(1)
    }
    end.reject(new Error('rolled back'))
    expect(await first).toBe('rolled back')
    expect(await second).toEqual({ status: 201, body: 'the second', replayed: false })
    expect(await once(request())).toEqual({ status: 201, body: 'the second', replayed: true })
  })

  test('with another body is refused; members in another order are the same body', async () => {
    const body = { a: 1, b: { c: [1, { d: 2, e: 3 }], f: null } }
    const { body: made } = await once(request({ body }))
    const reordered = { b: { f: null, c: [1, { e: 3, d: 2 }] }, a: 1 }
    expect(await once(request({ body: reordered }))).toEqual({ status: 201, body: made, replayed: true })
    for (const other of [
      { ...body, a: 2 },
      { ...body, g: null },
      { a: 1 },
      { ...body, a: '1' },
      undefined,
      null,
      [body],
    ]) {
      await expect(once(request({ body: other }))).rejects.toMatchObject({ code: 'request.idempotency_key_reused' })
    }
    expect(await countKeys()).toBe(1)
  })

  test('is distinct for each user, route and exact spelling', async () => {
    const bodies = new Set<unknown>()
    for (const more of [{}, { userId: await insertUser() }, { route: 'POST /others' }, { key: 'K' }, { key: 'k ' }]) {
      bodies.add((await once(request(more))).body)
    }
    expect(bodies.size).toBe(5)
  })

  test('replays a response byte for byte: the order of members, numbers, and an empty body', async () => {
    const answer = { z: 1, a: [1.5, 1e21, -0.1], nested: { b: null, 'é\u2028"': '\\u0000' }, empty: {} }
    await once(request(), () => answer)
    expect(JSON.stringify((await once(request())).body)).toBe(JSON.stringify(answer))
    await once(request({ key: 'none' }), () => undefined)
    expect(await once(request({ key: 'none' }))).toEqual({ status: 201, body: undefined, replayed: true })
  })

  test('that was not sent stores nothing', async () => {
    const answers = [await once(request({ key: undefined })), await once(request({ key: undefined }))]
    expect(answers.map(({ replayed }) => replayed)).toEqual([false, false])
    expect(answers[0]?.body).not.toBe(answers[1]?.body as never)
    expect(await countKeys()).toBe(0)
  })

  test('expires after a day and can be used again, even before it is purged', async () => {
    const { body } = await once(request())
    clock.advance(retentionMs - 1)
    expect(await once(request())).toEqual({ status: 201, body, replayed: true })
    await idempotency().purge()
    expect(await countKeys()).toBe(1)
    clock.advance(1)
    const works: unknown[] = []
    const again = await Promise.all(Array.from({ length: 5 }, () => once(request({ body: {} }), () => works.push(1))))
    expect(works).toHaveLength(1)
    expect(again.filter(({ replayed }) => replayed)).toHaveLength(4)
    clock.advance(retentionMs)
    expect(await idempotency().purge()).toBeGreaterThan(0)
    expect(await countKeys()).toBe(0)
  })
})
