import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { reapFolder } from '../harness/reaper.ts'
import { type Api, api, type Person, register, startApp, startServer, type TestApp } from '../harness.ts'
import { completed, type FakeFal, inProgress, type Script, startFakeFal } from '../providers/fake-fal.ts'
import { closeConnection, file, hang, json, type Respond, status, truncated } from '../providers/fake-server.ts'

const path = '/api/v1/generations'
const welcome = 1_000

let fal: FakeFal
let folder: string
/** Two instances over one database: `idle` accepts orders and runs no jobs, `working` runs them. */
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
/** Registers a user who orders one picture; the fake fal follows the script. */
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
  const hasEnded = async () => ['completed', 'failed'].includes((await get(person, `/generations/${id}`)).status)
  await until(hasEnded, 'the generation has ended', 50_000)
  return get(person, `/generations/${id}`)
}
const balanceOf = async ({ person }: Ordered) => (await get(person, '/credits/balance')).balance
const requestIdsOf = ({ prompt }: Ordered) => fal.acceptedIds(prompt)
/** The request id of the only submission, once its status was polled. */
const waitForPoll = async (ordered: Ordered): Promise<string> => {
  await until(() => fal.polls(requestIdsOf(ordered)[0] ?? '') > 0, 'the status is polled')
  return requestIdsOf(ordered)[0] ?? ''
}
const expectPicture = async ({ person, id }: Ordered) => {
  const { items } = await get(person, `/generations/${id}/media`)
  expect(items).toMatchObject([{ content_type: 'image/png', width: 96, height: 64 }])
  const content = await fetch(`${idle.baseUrl}/api/v1/media/${items[0].id}/content`, {
    headers: { authorization: `Bearer ${person.token}` },
  })
  expect(Buffer.from(await content.arrayBuffer()).equals(fal.image)).toBeTrue()
}

describe('a fal order whose instance stops', () => {
  test('by kill -9 is resumed by the next instance, and submitted once', async () => {
    const env = { FAL_KEY: 'id:secret', FAL_QUEUE_URL: fal.queueUrl, MEDIA_DIR: folder, JOB_CONCURRENCY: '1' }
    const killed = await startServer({ runtime: 'bun', connection: idle.connection, env })
    const ordered = await order({ status: [...Array.from({ length: 4 }, () => inProgress), completed] })
    const id = await waitForPoll(ordered)
    await killed.kill('SIGKILL')
    // Expires the lease.
    await sql`update generation_jobs set lease_until = now()`
    working = await startWorking({ jobConcurrency: 4 })
    expect(await ended(ordered)).toMatchObject({ status: 'completed' })
    await expectPicture(ordered)
    expect([fal.submissions(ordered.prompt), fal.cancellations(id), await balanceOf(ordered)]).toEqual([
      1,
      0,
      welcome - 1,
    ])
  }, 60_000)

  test('by a graceful shutdown is resumed by the next instance, and submitted once', async () => {
    await working.close()
    const leaving = await startWorking({ jobConcurrency: 1 })
    const ordered = await order({ status: [...Array.from({ length: 4 }, () => inProgress), completed] })
    const id = await waitForPoll(ordered)
    await leaving.close()
    working = await startWorking({ jobConcurrency: 4 })
    expect(await ended(ordered)).toMatchObject({ status: 'completed' })
    expect([fal.submissions(ordered.prompt), fal.cancellations(id)]).toEqual([1, 0])
  }, 60_000)

  test('holding the lease is not cancelled by the worker that lost it', async () => {
    const ordered = await order({ status: [inProgress] })
    const id = await waitForPoll(ordered)
    await sql`update generation_jobs set attempt = attempt + 1, worker = 'another' where generation_id = ${ordered.id}`
    await until(() => working.services.runner.running === 0, 'the attempt is aborted')
    expect(fal.cancellations(id)).toBe(0)
    await client.post(`${path}/${ordered.id}/cancel`, undefined, { token: ordered.person.token })
  }, 30_000)
})

describe('a fal order', () => {
  beforeAll(async () => {
    working ??= await startWorking({ jobConcurrency: 4 })
  })

  test('is polled until it completes, then its output is stored and its price settled', async () => {
    const ordered = await order()
    expect(await ended(ordered)).toMatchObject({ status: 'completed', failure: null, progress: 1 })
    await expectPicture(ordered)
    expect([fal.submissions(ordered.prompt), await balanceOf(ordered)]).toEqual([1, welcome - 1])
    expect(fal.polls(requestIdsOf(ordered)[0] ?? '')).toBe(3)
  }, 30_000)

  test('completes despite transient errors at every step, and is accepted by fal once', async () => {
    const transient: [Respond, Respond][] = [
      [status(429, { 'retry-after': '0' }), status(429)],
      [status(500), status(503)],
      [truncated('application/json'), truncated('image/png')],
      [closeConnection, closeConnection],
    ]
    const good = file(fal.image, 'image/png')
    const all = await Promise.all(
      transient.map(([act, atFile]) => order({ submit: [act], status: [act, completed], file: [atFile, good] })),
    )
    for (const ordered of all) {
      expect(await ended(ordered)).toMatchObject({ status: 'completed' })
      await expectPicture(ordered)
      expect([fal.submissions(ordered.prompt), requestIdsOf(ordered).length, await balanceOf(ordered)]).toEqual([
        2,
        1,
        welcome - 1,
      ])
    }
  }, 60_000)

  test('that fails is refunded once', async () => {
    const cases: [failure: string, taken: number, script: Script][] = [
      ['refused', 0, { submit: [json({ detail: [{ type: 'content_policy_violation' }] }, 422)] }],
      ['refused', 1, { status: [completed], result: [json({ images: [], has_nsfw_concepts: [true] })] }],
      ['unavailable', 0, { submit: Array.from({ length: 9 }, () => status(429)) }],
      ['invalid_output', 1, { status: [completed], file: [file('<html>', 'text/html')] }],
      ['invalid_output', 1, { status: [completed], file: [file('no picture', 'image/png')] }],
      // The order itself succeeded: each attempt only fetches its file again.
      ['unavailable', 1, { status: [completed], file: [truncated('image/png')] }],
      // The same holds when the result cannot be read: fal charges for completed orders.
      ['invalid_output', 1, { status: [completed], result: [file('{}', 'text/html')] }],
      ['invalid_output', 1, { status: [completed], result: [json({ images: [] })] }],
      ['invalid_output', 1, { status: [completed], file: [file('', 'image/png')] }],
      // The model failed, which fal does not charge for: each attempt orders anew.
      ['failed', 3, { status: [completed], result: [status(500)] }],
    ]
    const all = await Promise.all(
      cases.map(async ([failure, taken, script]) => ({ failure, taken, ordered: await order(script) })),
    )
    for (const { failure, taken, ordered } of all) {
      expect(await ended(ordered)).toMatchObject({ status: 'failed', failure })
      expect([failure, requestIdsOf(ordered).length, await balanceOf(ordered)]).toEqual([failure, taken, welcome])
      const { items } = await get(ordered.person, '/credits/ledger')
      expect(items.map(({ kind }: { kind: string }) => kind)).toEqual(['refund', 'reserve', 'welcome'])
    }
  }, 90_000)

  test('that hangs fails at the time limit and is cancelled at fal', async () => {
    await working.close()
    working = await startWorking({ jobConcurrency: 4, generationTimeoutMs: 3_000 })
    const all = [await order({ status: [hang] }), await order({ status: [completed], file: [hang] })]
    for (const ordered of all) {
      expect(await ended(ordered)).toMatchObject({ status: 'failed', failure: 'timeout' })
      expect([requestIdsOf(ordered).length, await balanceOf(ordered)]).toEqual([1, welcome])
    }
    const ids = all.map((ordered) => requestIdsOf(ordered)[0] ?? '')
    await until(() => ids.every((id) => fal.cancellations(id) === 1), 'both are cancelled at fal')
    await working.close()
    working = await startWorking({ jobConcurrency: 4 })
  }, 60_000)
})

describe('a cancelled fal order', () => {
  beforeAll(async () => {
    working ??= await startWorking({ jobConcurrency: 4 })
  })
  const expectCancelled = async (ordered: Ordered, id: string) => {
    await until(() => fal.cancellations(id) > 0, 'it is cancelled at fal')
    await until(() => working.services.runner.running === 0, 'the attempt is aborted')
    expect([fal.cancellations(id), fal.submissions(ordered.prompt), await balanceOf(ordered)]).toEqual([1, 1, welcome])
  }
  const startOrder = async () => {
    const ordered = await order({ status: [inProgress] })
    return { ordered, id: await waitForPoll(ordered) }
  }

  test('is cancelled at fal and refunded, from the worker or from another instance', async () => {
    for (const { baseUrl } of [working, idle]) {
      const { ordered, id } = await startOrder()
      const { token } = ordered.person
      const answer = await api(baseUrl).post(`${path}/${ordered.id}/cancel`, undefined, { token })
      expect([answer.status, answer.body.status]).toEqual([200, 'cancelled'])
      await expectCancelled(ordered, id)
    }
  }, 60_000)

  test('by deleting the generation is cancelled at fal and refunded', async () => {
    const { ordered, id } = await startOrder()
    expect((await client.delete(`${path}/${ordered.id}`, { token: ordered.person.token })).status).toBe(204)
    await expectCancelled(ordered, id)
  }, 60_000)

  test('without a bus message is aborted at the next heartbeat', async () => {
    const { ordered, id } = await startOrder()
    // What a cancellation does, without its bus message.
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

  test('between two attempts is cancelled at fal', async () => {
    const ordered = await order({ status: [completed], file: [truncated('image/png')] })
    const { id: generationId, person } = ordered
    const delayRetry = async () => {
      const { count } = await sql`
        update generation_jobs set run_after = now() + interval '1 hour'
         where generation_id = ${generationId} and failures > 0 and worker is null`
      return count === 1
    }
    await until(delayRetry, 'an attempt has failed', 30_000)
    await client.post(`${path}/${generationId}/cancel`, undefined, { token: person.token })
    await expectCancelled(ordered, requestIdsOf(ordered)[0] ?? '')
  }, 60_000)

  test('is cancelled at fal by another instance after its own was killed', async () => {
    await working.close()
    const env = { FAL_KEY: 'id:secret', FAL_QUEUE_URL: fal.queueUrl, MEDIA_DIR: folder, JOB_CONCURRENCY: '1' }
    const killed = await startServer({ runtime: 'bun', connection: idle.connection, env })
    const { ordered, id } = await startOrder()
    await killed.kill('SIGKILL')
    await client.post(`${path}/${ordered.id}/cancel`, undefined, { token: ordered.person.token })
    await until(() => fal.cancellations(id) > 0, 'it is cancelled at fal')
    expect(await balanceOf(ordered)).toBe(welcome)
    working = await startWorking({ jobConcurrency: 4 })
  }, 60_000)

  test('is retried while fal fails to cancel it, until it succeeds', async () => {
    const ordered = await order({ status: [inProgress], cancel: [status(503)] })
    const id = await waitForPoll(ordered)
    await client.post(`${path}/${ordered.id}/cancel`, undefined, { token: ordered.person.token })
    await until(() => fal.cancellations(id) === 1, 'it is cancelled at fal')
    const due = sql`update order_cancellations set due_at = now() where generation_id = ${ordered.id} returning 1`
    expect(await due).toHaveLength(1)
    await until(() => fal.cancellations(id) === 2, 'the cancellation is retried')
    const isRemoved = async () =>
      (await sql`select from order_cancellations where generation_id = ${ordered.id}`).length === 0
    await until(isRemoved, 'the cancellation is removed')
  }, 60_000)

  test('during its submission is cancelled at fal as soon as its request id is known', async () => {
    let answer: (() => void) | undefined
    const holdAnswer: Respond = (response, received) => {
      answer = () => json({ status: 'IN_QUEUE', request_id: 'request-late' })(response, received)
    }
    const ordered = await order({ submit: [holdAnswer] })
    await until(() => answer !== undefined, 'the order is submitted')
    await client.post(`${path}/${ordered.id}/cancel`, undefined, { token: ordered.person.token })
    answer?.()
    await expectCancelled(ordered, 'request-late')
  }, 60_000)
})
