import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { createCancellationStore } from '../../src/jobs/cancellation-store.ts'
import { createRunner } from '../../src/jobs/runner.ts'
import { createJobStore } from '../../src/jobs/store.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { createDeadline } from '../../src/kit/deadline.ts'
import { newId } from '../../src/kit/id.ts'
import { createLog } from '../../src/platform/log.ts'
import { connect, type Sql, type TransactionSql } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

let database: TestDatabase
let sql: Sql
beforeAll(async () => {
  database = await createDatabase()
  sql = connect(database.connection, { max: 20 })
})
beforeEach(async () => {
  await sql`delete from generations`
})
afterAll(async () => {
  await sql?.end({ timeout: 1 })
  await database?.drop()
})

const leaseMs = 60_000
const makes = { models: ['m'], strandedMs: 60_000 }
const stores = () => [createJobStore(sql, 'one', makes), createJobStore(sql, 'two', makes)] as const
const inside = <T>(work: (tx: TransactionSql) => Promise<T>) => sql.begin(work) as Promise<T>
const take = (store: ReturnType<typeof createJobStore>, limit = 10) => inside((tx) => store.lease(tx, limit, leaseMs))
const leaseOf = (job: { generation_id: string; attempt: number }) => ({
  generationId: job.generation_id,
  attempt: job.attempt,
})

const addUser = async (plan = 'free') => {
  const id = newId()
  await sql`
    insert into users (id, email, display_name, password_hash, plan)
    values (${id}, ${`${id}@example.com`}, 'Somebody', 'x', ${plan})`
  return id
}
const addJob = async (plan?: string) => {
  const [id, owner] = [newId(), await addUser(plan)]
  await sql`insert into generations (id, owner_id, model, prompt) values (${id}, ${owner}, 'm', 'p')`
  await inside((tx) => createJobStore(sql, 'adder', makes).enqueue(tx, id))
  return id
}
const rowOf = async (id: string) => (await sql`select * from generation_jobs where generation_id = ${id}`)[0]
const runOut = (id: string) =>
  sql`update generation_jobs set lease_until = clock_timestamp() where generation_id = ${id}`

describe('jobs', () => {
  test('go to those who pay more first, then in the order they came, each to one of many who ask at once', async () => {
    const [late, early, paid] = [await addJob(), await addJob(), await addJob('enterprise')]
    const [one, two] = stores()
    expect((await take(one, 1)).map(({ generation_id }) => generation_id)).toEqual([paid])
    const taken = (await Promise.all([take(one), take(two), take(one), take(two)])).flat()
    expect(taken.map(({ generation_id }) => generation_id).toSorted()).toEqual([late, early].toSorted())
    expect(await one.isAnyDue()).toBe(false)
    const statuses = await sql`select distinct status, started_at is not null as started from generations`
    expect([...statuses]).toEqual([{ status: 'processing', started: true }])
  })

  test('each has a place: how many that wait for a worker go before it', async () => {
    const [late, later, paid] = [await addJob(), await addJob(), await addJob('enterprise')]
    const [one] = stores()
    const placesOf = async (...ids: string[]) =>
      Object.fromEntries(await one.findPositions(createDeadline(systemClock, 10_000), ids))
    expect(await placesOf(late, later, paid, newId())).toEqual({ [paid]: 0, [late]: 1, [later]: 2 })
    expect(await placesOf(later)).toEqual({ [later]: 2 })
    await take(one, 1)
    expect(await placesOf(late, later, paid)).toEqual({ [late]: 0, [later]: 1 })
    await runOut(paid)
    expect(await placesOf(late, later, paid)).toEqual({ [paid]: 0, [late]: 1, [later]: 2 })
    await sql`update generation_jobs set run_after = now() + interval '1 hour' where generation_id = ${late}`
    expect(await placesOf(later)).toEqual({ [later]: 1 })
  })

  test('the places behind the front of a long queue are not counted', async () => {
    const last = await addJob()
    const owner = await addUser()
    await sql`
      insert into generations (id, owner_id, model, prompt)
      select gen_random_uuid(), ${owner}, 'm', 'p' from generate_series(1, 10050)`
    await sql`
      insert into generation_jobs (generation_id, priority) select id, 1 from generations where owner_id = ${owner}`
    const [one] = stores()
    const places = await one.findPositions(createDeadline(systemClock, 10_000), [last])
    expect(places.get(last)).toBe(10_000)
  })

  test('how far attempts are is heard by whoever listens', async () => {
    const heard: string[] = []
    const { unlisten } = await sql.listen('velro', (payload) => void heard.push(payload))
    const id = newId()
    const [one] = stores()
    await one.publishProgress([
      { generationId: id, attempt: 2, fraction: 0.25 },
      { generationId: id, attempt: 3, fraction: 1 },
    ])
    await until(() => heard.length >= 2, 'both are heard')
    expect(heard).toEqual([`progress ${id} 2 0.25`, `progress ${id} 3 1`])
    await unlisten()
  })

  test('are left to workers that can make them, until they have been due for too long', async () => {
    const id = await addJob()
    const [able] = stores()
    const unable = createJobStore(sql, 'unable', { ...makes, models: ['another'] })
    const due = async () => [await able.isAnyDue(), await unable.isAnyDue()]
    expect([await due(), await take(unable)]).toEqual([[true, false], []])
    await sql`update generation_jobs set run_after = now() - interval '2 minutes'`
    expect(await due()).toEqual([true, true])
    expect(await take(able)).toHaveLength(1)
    await runOut(id)
    // It was somebody's a moment ago.
    expect([await due(), await take(unable)]).toEqual([[true, false], []])
    await sql`update generation_jobs set lease_until = now() - interval '2 minutes'`
    expect(await take(unable)).toMatchObject([{ generation_id: id, attempt: 2 }])
  })

  test('of a generation that somebody is at are passed over, and nobody waits', async () => {
    const id = await addJob()
    const [one] = stores()
    await inside(async (tx) => {
      await tx`select from generations where id = ${id} for no key update`
      expect(await take(one)).toEqual([])
    })
    expect(await take(one)).toHaveLength(1)
  })

  test('are held as long as that is renewed, with how far they are, and then are another’s', async () => {
    const id = await addJob()
    const [one, two] = stores()
    const [first] = await take(one)
    const held = (attempt: number) => new Map([[id, { attempt, fraction: 0.25 }]])
    const nothing = new Set<string>()
    expect(await one.heartbeat(held(1), leaseMs)).toEqual(new Set([id]))
    expect(await rowOf(id)).toMatchObject({ progress: 0.25, worker: 'one', attempt: 1 })
    expect(await two.heartbeat(held(1), leaseMs)).toEqual(nothing)
    expect(await take(two)).toEqual([])
    await runOut(id)
    const [second] = await take(two)
    expect(second).toMatchObject({ generation_id: id, attempt: 2, failures: 0 })
    expect(await rowOf(id)).toMatchObject({ progress: 0, worker: 'two' })
    if (first === undefined || second === undefined) throw new Error('Not taken')
    expect(await one.heartbeat(held(1), leaseMs)).toEqual(nothing)
    expect(await one.recordRemoteOrder(leaseOf(first), { id: 'x' })).toBe(false)
    await one.reschedule(leaseOf(first), 0, true)
    expect(await inside((tx) => one.complete(tx, leaseOf(first)))).toBe(false)
    expect(await rowOf(id)).toMatchObject({ worker: 'two', failures: 0 })
    expect(await inside((tx) => two.complete(tx, leaseOf(second)))).toBe(true)
    expect(await rowOf(id)).toBeUndefined()
    expect(await two.heartbeat(held(2), leaseMs)).toEqual(nothing)
  })

  test('are held in one order, so that whoever takes several away waits, and is waited for, and nothing worse', async () => {
    await Promise.all([addJob(), addJob()])
    const [one] = stores()
    const ids = (await take(one)).map(({ generation_id }) => generation_id).sort()
    const [first = '', second = ''] = ids
    const held = new Map([second, first].map((id) => [id, { attempt: 1, fraction: 0 }]))
    const waiting = async () =>
      (await sql`select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`).length
    await inside(async (tx) => {
      await one.cancel(tx, first)
      const renewing = one.heartbeat(held, leaseMs)
      await until(async () => (await waiting()) === 1, 'the renewal waits')
      // It would be waited for, if it had this one already.
      await one.cancel(tx, second)
      return { renewing }
    }).then(async ({ renewing }) => expect(await renewing).toEqual(new Set()))
  })

  test('that are put off come again after a while, with what was noted and how often they failed', async () => {
    const id = await addJob()
    const [one, two] = stores()
    const [first] = await take(one)
    if (first === undefined) throw new Error('Not taken')
    expect(await one.recordRemoteOrder(leaseOf(first), { request: 'r-1' })).toBe(true)
    await one.reschedule(leaseOf(first), 50, true)
    expect([await one.isAnyDue(), await take(two)]).toEqual([false, []])
    await sql`select pg_sleep(0.06)`
    expect(await take(two)).toMatchObject([{ attempt: 2, failures: 1, remote: { request: 'r-1' } }])
    expect(await rowOf(id)).toMatchObject({ worker: 'two' })
  })

  test('that are cancelled are gone once, whoever has them', async () => {
    const id = await addJob()
    const [one] = stores()
    const [first] = await take(one)
    if (first === undefined) throw new Error('Not taken')
    const cancel = () =>
      inside(async (tx) => {
        await tx`select from generations where id = ${id} for no key update`
        return one.cancel(tx, id)
      })
    const ends = await Promise.all([cancel(), cancel(), inside((tx) => one.complete(tx, leaseOf(first)))])
    expect(ends.filter(Boolean)).toHaveLength(1)
  })
})

describe('orders at providers', () => {
  const remote = { request_id: 'r-1' }
  const noted = async (what: unknown = remote) => {
    const id = await addJob()
    const [one] = stores()
    const [job] = await take(one)
    if (job === undefined) throw new Error('Not taken')
    expect(await one.recordRemoteOrder(leaseOf(job), what)).toBe(true)
    return { id, job }
  }
  const toCancel = async () => [...(await sql`select generation_id, model, remote from order_cancellations`)]
  beforeEach(async () => {
    await sql`delete from order_cancellations`
  })

  test('are to be cancelled once their job is cancelled or given up, whoever has it, and that is committed', async () => {
    const [one, two] = stores()
    for (const end of [
      (tx: TransactionSql, { id }: { id: string }) => two.cancel(tx, id),
      (tx: TransactionSql, { job }: Awaited<ReturnType<typeof noted>>) => one.failPermanently(tx, leaseOf(job)),
    ]) {
      const ordered = await noted()
      await inside((tx) => end(tx, ordered).then(() => Promise.reject(new Error('taken back')))).catch(() => {})
      expect([await toCancel(), await rowOf(ordered.id)]).toMatchObject([[], { remote }])
      expect(await inside((tx) => end(tx, ordered))).toBe(true)
      expect(await toCancel()).toEqual([{ generation_id: ordered.id, model: 'm', remote }])
      expect(await inside((tx) => end(tx, ordered))).toBe(false)
      await sql`delete from order_cancellations`
    }
  })

  test('are not where nothing was ordered, it was forgotten, it is done, or the job is another’s', async () => {
    const [one, two] = stores()
    const plain = await addJob()
    expect(await inside((tx) => one.cancel(tx, plain))).toBe(true)
    expect(await inside(async (tx) => one.cancel(tx, (await noted(null)).id))).toBe(true)
    expect(await inside(async (tx) => one.complete(tx, leaseOf((await noted()).job)))).toBe(true)
    expect(await inside(async (tx) => two.failPermanently(tx, leaseOf((await noted()).job)))).toBe(false)
    expect(await toCancel()).toEqual([])
  })

  test('are taken to be cancelled by one of many, the longest due first, and again after pauses that double', async () => {
    const [store, other] = [createCancellationStore(sql), createCancellationStore(sql)]
    const add = async (model: string, age: string) => {
      const id = newId()
      await sql`
        insert into order_cancellations (generation_id, model, remote, created_at, due_at)
        select ${id}, ${model}, ${sql.json(remote)}, at, at from (select now() - ${age}::interval as at) as past`
      return id
    }
    const [young, old, foreign] = [await add('m', '1 second'), await add('m', '1 hour'), await add('other', '1 day')]
    expect((await store.lease(['m'], 1, 60_000)).map(({ generation_id }) => generation_id)).toEqual([old])
    const taken = (await Promise.all([store.lease(['m'], 10, 60_000), other.lease(['m'], 10, 60_000)])).flat()
    expect(taken).toEqual([{ generation_id: young, model: 'm', remote }])
    const pauses = await sql<{ generation_id: string; minutes: number }[]>`
      select generation_id, round(extract(epoch from due_at - now()) / 60)::int as minutes
        from order_cancellations where due_at > now()`
    expect(new Map(pauses.map(({ generation_id, minutes }) => [generation_id, minutes]))).toEqual(
      new Map([
        [young, 1],
        [old, 60],
      ]),
    )
    await store.remove(old)
    await store.purge(3_600_000)
    expect((await toCancel()).map(({ generation_id }) => generation_id)).toEqual([young])
    expect(foreign).not.toBe(young)
  })
})

test('one that is cancelled after it was taken and before it was begun is not begun, and does not hold up the next', async () => {
  const [id, next] = [await addJob(), await addJob()]
  const [store] = stores()
  const taken = Promise.withResolvers<void>()
  const told = Promise.withResolvers<void>()
  const begun: string[] = []
  const runner = createRunner({
    store,
    // As a change that others are still to hear of.
    lease: async (limit, ms) => {
      const jobs = await inside((tx) => store.lease(tx, limit, ms))
      taken.resolve()
      await told.promise
      return jobs
    },
    work: {
      make: async (job) => void begun.push(job.generation_id),
      complete: (_, lease) => inside((tx) => store.complete(tx, lease)),
      failPermanently: async () => {},
      classifyFailure: () => ({ reason: 'failed', retryable: false }),
    },
    log: createLog('silent'),
    concurrency: 1,
    timeLimitMs: leaseMs,
  })
  await taken.promise
  await inside((tx) => store.cancel(tx, id))
  runner.abort(id)
  told.resolve()
  await until(async () => (await rowOf(next)) === undefined, 'the next is over')
  expect(begun).toEqual([next])
  await runner.close()
})

test('what is queued without anybody to make it was cancelled when they came, and what failed says so', async () => {
  const text = await Bun.file(new URL('../../sql/000012_jobs.sql', import.meta.url)).text()
  const old = await createDatabase({ migrated: false })
  const own = connect(old.connection, { max: 1 })
  try {
    // As much of what was before as the migration looks at.
    await own`create table generations (id uuid primary key, status text not null)`
    for (const status of ['queued', 'processing', 'failed', 'completed']) {
      await own`insert into generations (id, status) values (${newId()}, ${status})`
    }
    await own.begin((tx) => tx.unsafe(text))
    expect((await own`select status, failure from generations order by id`).map(({ ...row }) => row)).toEqual([
      { status: 'cancelled', failure: null },
      { status: 'cancelled', failure: null },
      { status: 'failed', failure: 'failed' },
      { status: 'completed', failure: null },
    ])
  } finally {
    await own.end()
    await old.drop()
  }
})
