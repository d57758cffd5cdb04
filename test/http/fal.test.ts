import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { reapFolder } from '../harness/reaper.ts'
import { type Api, api, type Person, register, startApp, startServer, type TestApp } from '../harness.ts'
import { completed, type FakeFal, inProgress, type Script, startFakeFal } from '../providers/fake-fal.ts'
import { type Act, cut, drop, file, hang, json, status } from '../providers/fake-server.ts'

const path = '/api/v1/generations'
const welcome = 1_000

let fal: FakeFal
let folder: string
/** Two instances over one database: one that accepts and works on nothing, and one that works. */
let idle: TestApp
let working: TestApp
let sql: Sql
let client: Api

const falConfig = () => ({ mediaDirectory: folder, renderWorkers: 1, falKey: 'id:secret', falQueueUrl: fal.queueUrl })
const startWorking = (config: { jobConcurrency: number; generationTimeoutMs?: number }) =>
  startApp({ connection: idle.connection, config: { ...falConfig(), ...config }, safeFetch: fal.safeFetch })

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'velro-media-'))
  reapFolder(folder)
  fal = await startFakeFal()
  idle = await startApp({ config: { ...falConfig(), dbConnections: 60, welcomeCredits: welcome } })
  sql = connectOnce(idle.connection)
  client = api(idle.baseUrl)
})
afterAll(async () => {
  await working?.close()
  await sql?.end()
  await idle?.close()
  await fal?.close()
})

let number = 0
/** Somebody who ordered one picture, of which fal makes what the script says. */
const order = async (script: Script = {}) => {
  number += 1
  const prompt = `a lighthouse, number ${number}`
  fal.script(prompt, script)
  const person = await register(client)
  const { status, body } = await client.post(path, { model: 'fal-ai/flux/schnell', prompt }, { token: person.token })
  expect([status, body.price]).toEqual([201, 1])
  return { person, prompt, id: body.id as string }
}
type Ordered = Awaited<ReturnType<typeof order>>

const get = async (person: Person, of: string) => (await client.get(`/api/v1${of}`, { token: person.token })).body
const ended = async ({ person, id }: Ordered) => {
  const isOver = async () => ['completed', 'failed'].includes((await get(person, `/generations/${id}`)).status)
  await until(isOver, 'it has ended', 50_000)
  return get(person, `/generations/${id}`)
}
const balanceOf = async ({ person }: Ordered) => (await get(person, '/credits/balance')).balance
const idsOf = ({ prompt }: Ordered) => fal.taken(prompt)
/** The name of the one order there is, once it was asked about. */
const underWay = async (ordered: Ordered): Promise<string> => {
  await until(() => fal.looked(idsOf(ordered)[0] ?? '') > 0, 'fal is asked how far it is')
  return idsOf(ordered)[0] ?? ''
}
const expectPicture = async ({ person, id }: Ordered) => {
  const { items } = await get(person, `/generations/${id}/media`)
  expect(items).toMatchObject([{ content_type: 'image/png', width: 96, height: 64 }])
  const content = await fetch(`${idle.baseUrl}/api/v1/media/${items[0].id}/content`, {
    headers: { authorization: `Bearer ${person.token}` },
  })
  expect(Buffer.from(await content.arrayBuffer()).equals(fal.picture)).toBeTrue()
}

describe('an order whose instance is gone', () => {
  test('after kill -9 is gone on with by the next, and not ordered twice', async () => {
    const env = { FAL_KEY: 'id:secret', FAL_QUEUE_URL: fal.queueUrl, MEDIA_DIR: folder, JOB_CONCURRENCY: '1' }
    const killed = await startServer({ runtime: 'bun', connection: idle.connection, env })
    const ordered = await order({ status: [...Array.from({ length: 4 }, () => inProgress), completed] })
    const id = await underWay(ordered)
    await killed.kill('SIGKILL')
    // As if the time of its lease had passed.
    await sql`update generation_jobs set lease_until = now()`
    working = await startWorking({ jobConcurrency: 4 })
    expect(await ended(ordered)).toMatchObject({ status: 'completed' })
    await expectPicture(ordered)
    expect([fal.submitted(ordered.prompt), fal.cancelled(id), await balanceOf(ordered)]).toEqual([1, 0, welcome - 1])
  }, 60_000)

  test('after it was told to end is gone on with too', async () => {
    await working.close()
    const leaving = await startWorking({ jobConcurrency: 1 })
    const ordered = await order({ status: [...Array.from({ length: 4 }, () => inProgress), completed] })
    const id = await underWay(ordered)
    await leaving.close()
    working = await startWorking({ jobConcurrency: 4 })
    expect(await ended(ordered)).toMatchObject({ status: 'completed' })
    expect([fal.submitted(ordered.prompt), fal.cancelled(id)]).toEqual([1, 0])
  }, 60_000)

  test('as far as others can tell is theirs, and left alone by the one that had it', async () => {
    const ordered = await order({ status: [inProgress] })
    const id = await underWay(ordered)
    await sql`update generation_jobs set attempt = attempt + 1, worker = 'another' where generation_id = ${ordered.id}`
    await until(() => working.services.runner.running === 0, 'it is left alone')
    expect(fal.cancelled(id)).toBe(0)
    await client.post(`${path}/${ordered.id}/cancel`, undefined, { token: ordered.person.token })
  }, 30_000)
})

describe('an order', () => {
  beforeAll(async () => {
    working ??= await startWorking({ jobConcurrency: 4 })
  })

  test('is waited for, and what comes of it is kept as our own copy and paid for', async () => {
    const ordered = await order()
    expect(await ended(ordered)).toMatchObject({ status: 'completed', failure: null, progress: 1 })
    await expectPicture(ordered)
    expect([fal.submitted(ordered.prompt), await balanceOf(ordered)]).toEqual([1, welcome - 1])
    expect(fal.looked(idsOf(ordered)[0] ?? '')).toBe(3)
  }, 30_000)

  test('that meets with what passes, at every step, is made all the same, and taken once', async () => {
    const passing: [Act, Act][] = [
      [status(429, { 'retry-after': '0' }), status(429)],
      [status(500), status(503)],
      [cut('application/json'), cut('image/png')],
      [drop, drop],
    ]
    const good = file(fal.picture, 'image/png')
    const all = await Promise.all(
      passing.map(([act, atFile]) => order({ submit: [act], status: [act, completed], file: [atFile, good] })),
    )
    for (const ordered of all) {
      expect(await ended(ordered)).toMatchObject({ status: 'completed' })
      await expectPicture(ordered)
      expect([fal.submitted(ordered.prompt), idsOf(ordered).length, await balanceOf(ordered)]).toEqual([
        2,
        1,
        welcome - 1,
      ])
    }
  }, 60_000)

  test('that comes to nothing is refunded, once', async () => {
    const cases: [failure: string, taken: number, script: Script][] = [
      ['refused', 0, { submit: [json({ detail: [{ type: 'content_policy_violation' }] }, 422)] }],
      ['refused', 1, { status: [completed], result: [json({ images: [], has_nsfw_concepts: [true] })] }],
      ['unavailable', 0, { submit: Array.from({ length: 9 }, () => status(429)) }],
      ['invalid_output', 1, { status: [completed], file: [file('<html>', 'text/html')] }],
      ['invalid_output', 1, { status: [completed], file: [file('no picture', 'image/png')] }],
      // The order is good: its file is asked for again by each attempt.
      ['unavailable', 1, { status: [completed], file: [cut('image/png')] }],
      ['invalid_output', 3, { status: [completed], result: [file('{}', 'text/html')] }],
    ]
    const all = await Promise.all(
      cases.map(async ([failure, taken, script]) => ({ failure, taken, ordered: await order(script) })),
    )
    for (const { failure, taken, ordered } of all) {
      expect(await ended(ordered)).toMatchObject({ status: 'failed', failure })
      expect([failure, idsOf(ordered).length, await balanceOf(ordered)]).toEqual([failure, taken, welcome])
      const { items } = await get(ordered.person, '/credits/ledger')
      expect(items.map(({ kind }: { kind: string }) => kind)).toEqual(['refund', 'reserve', 'welcome'])
    }
  }, 90_000)

  test('that hangs is failed when its time is over, and cancelled', async () => {
    await working.close()
    working = await startWorking({ jobConcurrency: 4, generationTimeoutMs: 3_000 })
    const all = [await order({ status: [hang] }), await order({ status: [completed], file: [hang] })]
    for (const ordered of all) {
      expect(await ended(ordered)).toMatchObject({ status: 'failed', failure: 'timeout' })
      expect([idsOf(ordered).length, await balanceOf(ordered)]).toEqual([1, welcome])
    }
    const ids = all.map((ordered) => idsOf(ordered)[0] ?? '')
    await until(() => ids.every((id) => fal.cancelled(id) === 1), 'fal is told of both')
    await working.close()
    working = await startWorking({ jobConcurrency: 4 })
  }, 60_000)
})

describe('an order that is called off', () => {
  beforeAll(async () => {
    working ??= await startWorking({ jobConcurrency: 4 })
  })
  const expectCancelled = async (ordered: Ordered, id: string) => {
    await until(() => fal.cancelled(id) > 0, 'fal is told')
    await until(() => working.services.runner.running === 0, 'nobody waits for it')
    expect([fal.cancelled(id), fal.submitted(ordered.prompt), await balanceOf(ordered)]).toEqual([1, 1, welcome])
  }
  const begin = async () => {
    const ordered = await order({ status: [inProgress] })
    return { ordered, id: await underWay(ordered) }
  }

  test('where it is worked on, or on another instance, is cancelled at fal and refunded', async () => {
    for (const { baseUrl } of [working, idle]) {
      const { ordered, id } = await begin()
      const { token } = ordered.person
      const answer = await api(baseUrl).post(`${path}/${ordered.id}/cancel`, undefined, { token })
      expect([answer.status, answer.body.status]).toEqual([200, 'cancelled'])
      await expectCancelled(ordered, id)
    }
  }, 60_000)

  test('by deleting it is cancelled there too', async () => {
    const { ordered, id } = await begin()
    expect((await client.delete(`${path}/${ordered.id}`, { token: ordered.person.token })).status).toBe(204)
    await expectCancelled(ordered, id)
  }, 60_000)

  test('without anybody hearing of it is left when its lease is to be renewed', async () => {
    const { ordered, id } = await begin()
    // What cancelling it does, but for telling everybody.
    const { id: generationId, person } = ordered
    await sql.begin(async (tx) => {
      await tx`delete from generation_jobs where generation_id = ${generationId}`
      await tx`update generations set status = 'cancelled', finished_at = now() where id = ${generationId}`
      await tx`
        insert into order_cancellations (generation_id, model, remote)
        values (${generationId}, 'fal-ai/flux/schnell', ${tx.json({ request_id: id })})`
      await tx`
        insert into credit_ledger (id, user_id, kind, amount, generation_id)
        values (gen_random_uuid(), ${person.id}, 'refund', 1, ${generationId})`
    })
    await expectCancelled(ordered, id)
  }, 60_000)

  test('between two attempts is cancelled at fal too', async () => {
    const ordered = await order({ status: [completed], file: [cut('image/png')] })
    const { id: generationId, person } = ordered
    const putOff = async () => {
      const { count } = await sql`
        update generation_jobs set run_after = now() + interval '1 hour'
         where generation_id = ${generationId} and failures > 0 and worker is null`
      return count === 1
    }
    await until(putOff, 'an attempt has failed', 30_000)
    await client.post(`${path}/${generationId}/cancel`, undefined, { token: person.token })
    await expectCancelled(ordered, idsOf(ordered)[0] ?? '')
  }, 60_000)

  test('after its instance was killed is cancelled at fal by another', async () => {
    await working.close()
    const env = { FAL_KEY: 'id:secret', FAL_QUEUE_URL: fal.queueUrl, MEDIA_DIR: folder, JOB_CONCURRENCY: '1' }
    const killed = await startServer({ runtime: 'bun', connection: idle.connection, env })
    const { ordered, id } = await begin()
    await killed.kill('SIGKILL')
    await client.post(`${path}/${ordered.id}/cancel`, undefined, { token: ordered.person.token })
    await until(() => fal.cancelled(id) > 0, 'fal is told')
    expect(await balanceOf(ordered)).toBe(welcome)
    working = await startWorking({ jobConcurrency: 4 })
  }, 60_000)

  test('while fal cannot be told is cancelled there later, and once', async () => {
    const ordered = await order({ status: [inProgress], cancel: [status(503)] })
    const id = await underWay(ordered)
    await client.post(`${path}/${ordered.id}/cancel`, undefined, { token: ordered.person.token })
    await until(() => fal.cancelled(id) === 1, 'fal is told')
    const due = sql`update order_cancellations set due_at = now() where generation_id = ${ordered.id} returning 1`
    expect(await due).toHaveLength(1)
    await until(() => fal.cancelled(id) === 2, 'fal is told again')
    const isDone = async () =>
      (await sql`select from order_cancellations where generation_id = ${ordered.id}`).length === 0
    await until(isDone, 'that is the end of it')
  }, 60_000)

  test('while it is submitted is cancelled there as soon as its name is known', async () => {
    let answer: (() => void) | undefined
    const take: Act = (response, received) => {
      answer = () => json({ status: 'IN_QUEUE', request_id: 'request-late' })(response, received)
    }
    const ordered = await order({ submit: [take] })
    await until(() => answer !== undefined, 'it is submitted')
    await client.post(`${path}/${ordered.id}/cancel`, undefined, { token: ordered.person.token })
    answer?.()
    await expectCancelled(ordered, 'request-late')
  }, 60_000)
})
