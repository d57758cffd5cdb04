import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createHash } from 'node:crypto'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { newId } from '../../src/kit/id.ts'
import { createDiskObjects } from '../../src/platform/disk-objects.ts'
import { objectKey } from '../../src/platform/objects.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { reapFolder } from '../harness/reaper.ts'
import { type Answer, type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const path = '/api/v1/generations'
const small = { model: 'local/procedural', prompt: 'a lighthouse', parameters: { width: 64, height: 64 } }
const large = { ...small, parameters: { width: 2_048, height: 2_048 }, outputs: 4 }

let idle: TestApp
let working: TestApp
let folder: string
let sql: Sql
let client: Api

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'velro-media-'))
  reapFolder(folder)
  // Two instances over one database: `idle` accepts orders and runs no jobs, `working` runs them.
  idle = await startApp({ config: { mediaDirectory: folder, dbConnections: 60, welcomeCredits: 10 } })
  sql = connectOnce(idle.connection)
  client = api(idle.baseUrl)
})
afterAll(async () => {
  await working?.close()
  await sql?.end()
  await idle?.close()
})
const startWorking = async () => {
  working ??= await startApp({
    connection: idle.connection,
    config: { mediaDirectory: folder, jobConcurrency: 2, renderWorkers: 1 },
  })
}

const order = (person: Person, input: object = small, headers: Record<string, string> = {}) =>
  client.post(path, input, { token: person.token, headers })
const get = async (person: Person, id: string) => (await client.get(`${path}/${id}`, { token: person.token })).body
const balanceOf = async ({ token }: Person) => (await client.get('/api/v1/credits/balance', { token })).body.balance
const ledgerOf = async ({ token }: Person, id: string) =>
  (await client.get('/api/v1/credits/ledger?limit=100', { token })).body.items
    .filter((entry: { generation_id: string }) => entry.generation_id === id)
    .map(({ kind }: { kind: string }) => kind)
const waitForStatus = (person: Person, id: string, status: string) =>
  until(async () => (await get(person, id)).status === status, `${id} is ${status}`)
const codeOf = ({ status, body }: Answer) => (status < 400 ? status : body.code)

describe('ordering generations', () => {
  test('100 times concurrently with credits for ten accepts exactly ten', async () => {
    const ada = await register(client)
    const answers = await Promise.all(Array.from({ length: 100 }, () => order(ada)))
    const codes = answers.map(codeOf)
    expect(codes.filter((code) => code === 201)).toHaveLength(10)
    expect(codes.filter((code) => code === 'credits.insufficient')).toHaveLength(90)
    expect(await balanceOf(ada)).toBe(0)
    const [row] = await sql`
      select count(*)::int as generations, count(j.generation_id)::int as jobs
        from generations g left join generation_jobs j on j.generation_id = g.id where g.owner_id = ${ada.id}`
    expect(row).toEqual({ generations: 10, jobs: 10 })
    await sql`delete from generations where owner_id = ${ada.id}`
  })

  test('20 times concurrently with one idempotency key accepts one and gives 20 identical responses, including the seed', async () => {
    const ada = await register(client)
    const answers = await Promise.all(
      Array.from({ length: 20 }, () => order(ada, small, { 'idempotency-key': 'one-of-a-kind' })),
    )
    expect(new Set(answers.map(({ status, body }) => `${status} ${JSON.stringify(body)}`)).size).toBe(1)
    expect(answers[0]?.body.parameters.seed).toBeNumber()
    expect(await balanceOf(ada)).toBe(9)
    expect(await sql`select from generations where owner_id = ${ada.id}`).toHaveLength(1)
  })

  test('without enough credits stores nothing, not even the idempotency key', async () => {
    const ada = await register(client)
    const key = { 'idempotency-key': 'twice' }
    for (const outputs of [4, 4]) await order(ada, { ...small, outputs })
    expect(codeOf(await order(ada, { ...small, outputs: 4 }, key))).toBe('credits.insufficient')
    expect(codeOf(await order(ada, { ...small, outputs: 2 }, key))).toBe(201)
    expect(await sql`select from generations where owner_id = ${ada.id}`).toHaveLength(3)
  })
})

describe('a queued generation', () => {
  test('cancelled ten times concurrently is cancelled once and refunded once', async () => {
    const ada = await register(client)
    const { id } = (await order(ada, { ...small, outputs: 3 })).body
    const cancel = () => client.post(`${path}/${id}/cancel`, undefined, { token: ada.token })
    const codes = (await Promise.all(Array.from({ length: 10 }, cancel))).map(codeOf)
    expect(codes.filter((code) => code === 200)).toHaveLength(1)
    expect(codes.filter((code) => code === 'generation.finished')).toHaveLength(9)
    expect(await balanceOf(ada)).toBe(10)
    expect(await get(ada, id)).toMatchObject({ status: 'cancelled', finished_at: expect.any(String), progress: 0 })
  })

  test('is refunded when it is deleted', async () => {
    const ada = await register(client)
    const { id } = (await order(ada, { ...small, outputs: 3 })).body
    expect((await client.delete(`${path}/${id}`, { token: ada.token })).status).toBe(204)
    expect([await balanceOf(ada), await ledgerOf(ada, id)]).toEqual([10, ['refund', 'reserve']])
  })
})

describe('a generation with a running job', () => {
  beforeAll(startWorking)

  test('is completed and settled, and its pictures and thumbnails are stored', async () => {
    const ada = await register(client)
    const { id } = (await order(ada, { ...small, outputs: 2 })).body
    await waitForStatus(ada, id, 'completed')
    expect([await balanceOf(ada), await ledgerOf(ada, id)]).toEqual([8, ['settle', 'reserve']])
    const rows = await sql<{ sha256: string }[]>`select sha256 from media where generation_id = ${id}`
    expect(rows).toHaveLength(2)
    const objects = createDiskObjects({ directory: folder })
    for (const { sha256 } of rows) {
      for (const variant of [undefined, '256', '512', '1024']) {
        expect((await objects.head(objectKey(sha256, variant)))?.length).toBeGreaterThan(0)
      }
    }
  })

  test('cancelled on another instance is aborted and refunded once', async () => {
    const ada = await register(client)
    const { id: quarter } = (await order(ada, { ...small, parameters: { width: 1_024, height: 1_024 } })).body
    const quarterMs = await waitForStatus(ada, quarter, 'completed')
    const { id } = (await order(ada, large)).body
    await waitForStatus(ada, id, 'processing')
    const answer = await client.post(`${path}/${id}/cancel`, undefined, { token: ada.token })
    expect([answer.status, answer.body.status]).toEqual([200, 'cancelled'])
    // Long before the four large pictures would be drawn.
    const stoppedMs = await until(() => working.services.runner.running === 0, 'the attempt is aborted')
    expect(stoppedMs).toBeLessThan(4 * quarterMs + 1_000)
    expect([await balanceOf(ada), await ledgerOf(ada, id)]).toEqual([9, ['refund', 'reserve']])
    expect(await get(ada, id)).toMatchObject({ status: 'cancelled' })
  })

  test('refuses the result of a worker that has lost its lease', async () => {
    const ada = await register(client)
    const { id } = (await order(ada, { ...small, parameters: { width: 1_024, height: 1_024 } })).body
    await waitForStatus(ada, id, 'processing')
    // As if another instance had leased the job.
    await sql`update generation_jobs set attempt = attempt + 1, worker = 'another' where generation_id = ${id}`
    await until(() => working.services.runner.running === 0, 'the result is discarded')
    expect(await get(ada, id)).toMatchObject({ status: 'processing' })
    expect(await sql`select from media where generation_id = ${id}`).toHaveLength(0)
    await sql`update generation_jobs set lease_until = now() where generation_id = ${id}`
    await waitForStatus(ada, id, 'completed')
    expect([await balanceOf(ada), await ledgerOf(ada, id)]).toEqual([9, ['settle', 'reserve']])
  })

  test('of a model that this instance cannot run waits for another instance, and after a day fails and is refunded', async () => {
    const ada = await register(client)
    // These keep both workers busy.
    const busy = [(await order(ada, large)).body.id, (await order(ada, large)).body.id]
    for (const each of busy) await waitForStatus(ada, each, 'processing')
    const { id } = (await order(ada)).body
    await sql`update generations set model = 'gone/model' where id = ${id}`
    const { id: later } = (await order(ada)).body
    for (const each of busy) await client.post(`${path}/${each}/cancel`, undefined, { token: ada.token })
    await waitForStatus(ada, later, 'completed')
    expect([...(await sql`select attempt from generation_jobs where generation_id = ${id}`)]).toEqual([{ attempt: 0 }])
    await sql`update generation_jobs set run_after = now() - interval '1 day' where generation_id = ${id}`
    await waitForStatus(ada, id, 'failed')
    expect(await get(ada, id)).toMatchObject({ failure: 'unavailable' })
    expect([await balanceOf(ada), await ledgerOf(ada, id)]).toEqual([9, ['refund', 'reserve']])
  }, 30_000)

  test('fails when it exceeds the time limit', async () => {
    const ada = await register(client)
    const { id } = (await order(ada, large)).body
    await waitForStatus(ada, id, 'processing')
    await sql`update generations set started_at = now() - interval '1 hour' where id = ${id}`
    await sql`update generation_jobs set lease_until = now(), attempt = attempt + 1 where generation_id = ${id}`
    await waitForStatus(ada, id, 'failed')
    expect(await get(ada, id)).toMatchObject({ failure: 'timeout' })
    expect(await balanceOf(ada)).toBe(10)
  })

  test('is rescheduled when its instance stops, and completed by another', async () => {
    const ada = await register(client)
    const leaving = await startApp({
      connection: idle.connection,
      config: { mediaDirectory: folder, jobConcurrency: 4, renderWorkers: 1 },
    })
    const ids: string[] = []
    // More than `working` can lease before `leaving` does.
    for (let count = 0; count < 10; count += 1) {
      ids.push((await order(ada, { ...small, parameters: { width: 512, height: 512 } })).body.id)
    }
    await until(() => leaving.services.runner.running > 0, 'the leaving instance has a job')
    await leaving.close()
    const [row] =
      await sql`select count(*)::int as held from generation_jobs where worker = ${leaving.services.caches.bus.instance}`
    expect(row).toEqual({ held: 0 })
    for (const id of ids) await waitForStatus(ada, id, 'completed')
    expect(await balanceOf(ada)).toBe(0)
  }, 60_000)
})

describe('a media object', () => {
  const objects = () => createDiskObjects({ directory: folder })
  const stored = async (sha256: string) => [
    (await sql`select from media_objects where sha256 = ${sha256}`).length,
    (await objects().head(objectKey(sha256))) !== undefined,
    (await objects().head(objectKey(sha256, '256'))) !== undefined,
  ]
  const isDeleted = (sha256: string) =>
    until(async () => JSON.stringify(await stored(sha256)) === '[0,false,false]', `${sha256} is deleted`)
  const make = async (person: Person, input: object = small) => {
    const { id } = (await order(person, input)).body
    await waitForStatus(person, id, 'completed')
    const [row] = await sql<{ sha256: string }[]>`select sha256 from media where generation_id = ${id}`
    return { id: id as string, sha256: row?.sha256 ?? '' }
  }

  test('is deleted with the last generation that refers to it', async () => {
    await startWorking()
    const ada = await register(client)
    const same = { ...small, parameters: { ...small.parameters, seed: 77 } }
    const [one, two, other] = [await make(ada, same), await make(ada, same), await make(ada)]
    expect(two.sha256).toBe(one.sha256)
    const remove = (id: string) => client.delete(`${path}/${id}`, { token: ada.token })
    expect((await remove(one.id)).status).toBe(204)
    expect((await remove(other.id)).status).toBe(204)
    // The sweep that removes this one has considered the first one too.
    await isDeleted(other.sha256)
    expect(await stored(one.sha256)).toEqual([1, true, true])
    expect((await remove(two.id)).status).toBe(204)
    await isDeleted(two.sha256)
    expect(await sql`select from media_orphans`).toHaveLength(0)
  })

  test('that was never confirmed is swept once its claim is old', async () => {
    await startWorking()
    const ada = await register(client)
    const { sha256 } = await make(ada)
    const picture = { contentType: 'image/png', width: 1, height: 1, durationMs: null }
    const pictures = ['fresh', 'old'].map((name) => {
      const bytes = Buffer.from(`${name} ${newId()}`)
      const hash = createHash('sha256').update(bytes).digest('hex')
      return { ...picture, claimId: newId(), bytes, sha256: hash, thumbnails: [{ variant: '256', bytes }] }
    })
    await working.services.mediaStorage.put(pictures)
    const [fresh = '', old = ''] = pictures.map(({ sha256 }) => sha256)
    await sql`update media_claims set claimed_at = now() - interval '2 hours' where sha256 = ${old}`
    await working.services.mediaStorage.sweep()
    expect(await stored(sha256)).toEqual([1, true, true])
    expect(await stored(fresh)).toEqual([1, true, true])
    expect(await stored(old)).toEqual([0, false, false])
    await working.services.mediaStorage.discard(pictures)
    await isDeleted(fresh)
  })

  test('of a discarded result is deleted at once', async () => {
    await startWorking()
    const ada = await register(client)
    const { id } = (await order(ada, { ...small, parameters: { width: 1_024, height: 1_024 } })).body
    await waitForStatus(ada, id, 'processing')
    const before = await sql`select from media_objects`
    await sql`update generation_jobs set attempt = attempt + 1, worker = 'another' where generation_id = ${id}`
    await until(() => working.services.runner.running === 0, 'the result is discarded')
    await until(async () => (await sql`select from media_objects`).length === before.length, 'its bytes are deleted')
    expect(await sql`select from media_claims`).toHaveLength(0)
    await client.delete(`${path}/${id}`, { token: ada.token })
  })

  test('whose bytes are lost is reported as unavailable, and an unknown one as not found', async () => {
    await startWorking()
    const ada = await register(client)
    const { id } = (await order(ada)).body
    await waitForStatus(ada, id, 'completed')
    const [row] = await sql<{ id: string; sha256: string }[]>`select id, sha256 from media where generation_id = ${id}`
    const content = (media = '') => client.get(`/api/v1/media/${media}/content`, { token: ada.token })
    expect((await content(row?.id)).status).toBe(200)
    await createDiskObjects({ directory: folder }).delete(objectKey(row?.sha256 ?? ''))
    expect(codeOf(await content(row?.id))).toBe('media.unavailable')
    expect(codeOf(await content(newId()))).toBe('media.not_found')
  })
})

describe('unfinished generations of an account that is closed', () => {
  const close = ({ token }: Person) => client.delete('/api/v1/auth/me', { token })
  const ledgerFor = async (id: string) =>
    (await sql<{ kind: string }[]>`select kind from credit_ledger where generation_id = ${id} order by kind desc`).map(
      ({ kind }) => kind,
    )
  const stateOf = async (id: string) => {
    const [row] = await sql`
      select g.status, (select count(*)::int from generation_jobs j where j.generation_id = g.id) as jobs
        from generations g where g.id = ${id}`
    return row
  }

  test('are refunded, and erased with it', async () => {
    const [ada, ben] = [await register(client), await register(client)]
    // Slow enough not to be completed before they are cancelled.
    const ids = [(await order(ada, large)).body.id, (await order(ada, large)).body.id]
    const other = (await order(ben, large)).body.id
    expect((await close(ada)).status).toBe(204)
    for (const id of ids) {
      expect([await stateOf(id), await ledgerFor(id)]).toEqual([undefined, ['reserve', 'refund']])
    }
    expect((await client.post(`${path}/${other}/cancel`, undefined, { token: ben.token })).status).toBe(200)
  })

  test('are all erased, over several requests if there are many', async () => {
    const ada = await register(client)
    await sql`
      insert into generations (id, owner_id, model, prompt)
      select gen_random_uuid(), ${ada.id}, 'local/procedural', 'p' from generate_series(1, 250)`
    await sql`insert into generation_jobs (generation_id, priority) select id, 2 from generations where owner_id = ${ada.id}`
    await until(async () => (await close(ada)).status === 204, 'the account is closed')
    const left = await sql`
      select id from generations where owner_id = ${ada.id}
      union all select j.generation_id from generation_jobs j left join generations g on g.id = j.generation_id where g.id is null`
    expect([...left]).toEqual([])
  })

  test('are cancelled or not accepted when ordered concurrently', async () => {
    const people = await Promise.all(Array.from({ length: 6 }, () => register(client)))
    const place = (person: Person) => order(person, { ...large, outputs: 2 })
    const closed = await Promise.all(
      people.map(async (person) => {
        const [, , { status }] = await Promise.all([place(person), place(person), close(person), place(person)])
        return status === 204 ? [person.id] : []
      }),
    )
    // On a busy machine a request may exceed its deadline.
    const ids = closed.flat()
    expect(ids.length).toBeGreaterThan(0)
    const left = await sql`
      select g.status, j.generation_id from generations g left join generation_jobs j on j.generation_id = g.id
       where g.owner_id = any (${ids}::uuid[]) and (g.status <> 'cancelled' or j.generation_id is not null)`
    expect([...left]).toEqual([])
    const spent = await sql`
      select user_id from credit_ledger where user_id = any (${ids}::uuid[]) and kind <> 'welcome'
       group by user_id having sum(amount) <> 0`
    expect([...spent]).toEqual([])
  })
})
