import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { cp, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { createCancellationStore } from '../../src/jobs/cancellation-store.ts'
import { createRunner } from '../../src/jobs/runner.ts'
import { createJobStore } from '../../src/jobs/store.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { newId } from '../../src/kit/id.ts'
import { createLog } from '../../src/platform/log.ts'
import { migrate } from '../../src/platform/migrate.ts'
import { connect, type Sql, type TransactionSql } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

const startDeadline = createDeadlines(systemClock)

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
const capability = { models: ['m'], strandedMs: 60_000 }
const stores = () => [createJobStore(sql, 'one', capability), createJobStore(sql, 'two', capability)] as const
const inTransaction = <T>(work: (tx: TransactionSql) => Promise<T>) => sql.begin(work) as Promise<T>
const lease = (store: ReturnType<typeof createJobStore>, limit = 10) =>
  inTransaction((tx) => store.lease(tx, limit, leaseMs))
const leaseOf = (job: { generation_id: string; attempt: number }) => ({
  generationId: job.generation_id,
  attempt: job.attempt,
})

const addUser = async (plan = 'free') => {
  const id = newId()
  await sql`
    insert into users (id, email, display_name, password_hash, plan)
    values (${id}, ${`${id}@example.com`}, 'Ada', 'x', ${plan})`
  return id
}
const addJob = async (plan?: string, ownedBy?: string) => {
  const [id, owner] = [newId(), ownedBy ?? (await addUser(plan))]
  await sql`insert into generations (id, owner_id, model, prompt) values (${id}, ${owner}, 'm', 'p')`
  await inTransaction((tx) => createJobStore(sql, 'enqueuer', capability).enqueue(tx, { generationId: id }))
  return id
}
const rowOf = async (id: string) => (await sql`select * from generation_jobs where generation_id = ${id}`)[0]
const expireLease = (id: string) =>
  sql`update generation_jobs set lease_until = clock_timestamp() where generation_id = ${id}`

describe('jobs', () => {
  test('are leased by plan, each to one of several concurrent workers', async () => {
    const [late, early, paid] = [await addJob(), await addJob(), await addJob('enterprise')]
    const [one, two] = stores()
    expect((await lease(one, 1)).map(({ generation_id }) => generation_id)).toEqual([paid])
    const leased = (await Promise.all([lease(one), lease(two), lease(one), lease(two)])).flat()
    expect(leased.map(({ generation_id }) => generation_id).toSorted()).toEqual([late, early].toSorted())
    expect(await one.isAnyDue()).toBe(false)
    const statuses = await sql`select distinct status, started_at is not null as started from generations`
    expect([...statuses]).toEqual([{ status: 'processing', started: true }])
  })

  test('of one owner wait one turn for each unfinished one ahead, and an owner without any waits one turn', async () => {
    const [ada, bob] = [await addUser(), await addUser()]
    const names = new Map<string, string>()
    const add = async (name: string, owner?: string) => names.set(await addJob('free', owner), name)
    const [one] = stores()
    const leaseNames = async (limit: number) =>
      (await lease(one, limit)).map(({ generation_id }) => names.get(generation_id) ?? '').sort()
    for (const name of ['a0', 'a1', 'a2', 'a3']) await add(name, ada)
    expect(await leaseNames(1)).toEqual(['a0'])
    for (const name of ['b1', 'b2']) await add(name, bob)
    await add('c1')
    expect(await leaseNames(3)).toEqual(['a1', 'b1', 'c1'])
    expect(await leaseNames(1)).toEqual(['a2'])
    // The newest turn under way is that of a2. Ada has one job waiting, newcomers have none.
    await add('d3')
    await add('e3')
    await add('a4', ada)
    expect(await leaseNames(4)).toEqual(['a3', 'b2', 'd3', 'e3'])
    expect(await leaseNames(9)).toEqual(['a4'])
  })

  test('that one owner enqueues at the same moment get different turns', async () => {
    const ada = await addUser()
    await Promise.all(Array.from({ length: 8 }, () => addJob('free', ada)))
    const rows = await sql<{ turn: number }[]>`select turn::int from generation_jobs order by turn`
    expect(new Set(rows.map(({ turn }) => turn)).size).toBe(8)
  })

  test('of an owner with many are not held up by a stream of new owners', async () => {
    const ada = await addUser()
    const many = new Set<string>()
    for (let count = 0; count < 5; count += 1) many.add(await addJob('free', ada))
    const [one] = stores()
    let rounds = 0
    for (; many.size > 0 && rounds < 40; rounds += 1) {
      await addJob()
      for (const job of await lease(one, 1)) {
        many.delete(job.generation_id)
        await inTransaction((tx) => one.complete(tx, leaseOf(job)))
      }
    }
    expect(rounds).toBeLessThan(12)
  })

  test('that the version before enqueues get their owner and turn too', async () => {
    const [ada, id, next] = [await addUser(), newId(), newId()]
    await sql`insert into generations (id, owner_id, model, prompt) select unnest(${[id, next]}::uuid[]), ${ada}, 'm', 'p'`
    for (const each of [id, next]) {
      await sql`insert into generation_jobs (generation_id, priority, reference_sha256) values (${each}, 2, null)`
    }
    expect(await rowOf(id)).toMatchObject({ owner_id: ada, turn: '0' })
    expect(await rowOf(next)).toMatchObject({ owner_id: ada, turn: '1' })
  })

  test('have the number of due jobs ahead as their queue position', async () => {
    const [late, later, paid] = [await addJob(), await addJob(), await addJob('enterprise')]
    const [one] = stores()
    const positionsOf = async (...ids: string[]) =>
      Object.fromEntries(await one.findPositions(startDeadline(10_000), ids))
    expect(await positionsOf(late, later, paid, newId())).toEqual({ [paid]: 0, [late]: 1, [later]: 2 })
    expect(await positionsOf(later)).toEqual({ [later]: 2 })
    await lease(one, 1)
    expect(await positionsOf(late, later, paid)).toEqual({ [late]: 0, [later]: 1 })
    await expireLease(paid)
    expect(await positionsOf(late, later, paid)).toEqual({ [paid]: 0, [late]: 1, [later]: 2 })
    await sql`update generation_jobs set run_after = now() + interval '1 hour' where generation_id = ${late}`
    expect(await positionsOf(later)).toEqual({ [later]: 1 })
  })

  test('behind the first 10,000 of a long queue all have position 10,000', async () => {
    const last = await addJob()
    const owner = await addUser()
    await sql`
      insert into generations (id, owner_id, model, prompt)
      select gen_random_uuid(), ${owner}, 'm', 'p' from generate_series(1, 10050)`
    await sql`
      insert into generation_jobs (generation_id, priority) select id, 1 from generations where owner_id = ${owner}`
    const [one] = stores()
    const positions = await one.findPositions(startDeadline(10_000), [last])
    expect(positions.get(last)).toBe(10_000)
  })

  test('publish the progress of their attempts to all listeners', async () => {
    const received: string[] = []
    const { unlisten } = await sql.listen('velro', (payload) => void received.push(payload))
    const id = newId()
    const [one] = stores()
    await one.publishProgress([
      { generationId: id, attempt: 2, fraction: 0.25 },
      { generationId: id, attempt: 3, fraction: 1 },
    ])
    await until(() => received.length >= 2, 'both messages are received')
    expect(received).toEqual([`progress ${id} 2 0.25`, `progress ${id} 3 1`])
    await unlisten()
  })

  test('are leased only by workers with their model, until they are stranded', async () => {
    const id = await addJob()
    const [capable] = stores()
    const incapable = createJobStore(sql, 'incapable', { ...capability, models: ['another'] })
    const due = async () => [await capable.isAnyDue(), await incapable.isAnyDue()]
    expect([await due(), await lease(incapable)]).toEqual([[true, false], []])
    await sql`update generation_jobs set run_after = now() - interval '2 minutes'`
    expect(await due()).toEqual([true, true])
    expect(await lease(capable)).toHaveLength(1)
    await expireLease(id)
    // The lease has only just expired.
    expect([await due(), await lease(incapable)]).toEqual([[true, false], []])
    await sql`update generation_jobs set lease_until = now() - interval '2 minutes'`
    expect(await lease(incapable)).toMatchObject([{ generation_id: id, attempt: 2 }])
  })

  test('of a locked generation are skipped without waiting', async () => {
    const id = await addJob()
    const [one] = stores()
    await inTransaction(async (tx) => {
      await tx`select from generations where id = ${id} for no key update`
      expect(await lease(one)).toEqual([])
    })
    expect(await lease(one)).toHaveLength(1)
  })

  test('stay leased while heartbeats arrive, and after the lease expires another worker takes them over', async () => {
    const id = await addJob()
    const [one, two] = stores()
    const [first] = await lease(one)
    const held = (attempt: number) => new Map([[id, { attempt, fraction: 0.25 }]])
    const none = new Set<string>()
    expect(await one.heartbeat(held(1), leaseMs)).toEqual(new Set([id]))
    expect(await rowOf(id)).toMatchObject({ progress: 0.25, worker: 'one', attempt: 1 })
    expect(await two.heartbeat(held(1), leaseMs)).toEqual(none)
    expect(await lease(two)).toEqual([])
    await expireLease(id)
    const [second] = await lease(two)
    expect(second).toMatchObject({ generation_id: id, attempt: 2, failures: 0 })
    expect(await rowOf(id)).toMatchObject({ progress: 0, worker: 'two' })
    if (first === undefined || second === undefined) throw new Error('No job was leased')
    expect(await one.heartbeat(held(1), leaseMs)).toEqual(none)
    expect(await one.recordRemoteOrder(leaseOf(first), { id: 'x' })).toBe(false)
    await one.reschedule(leaseOf(first), 0, true)
    expect(await inTransaction((tx) => one.complete(tx, leaseOf(first)))).toBe(false)
    expect(await rowOf(id)).toMatchObject({ worker: 'two', failures: 0 })
    expect(await inTransaction((tx) => two.complete(tx, leaseOf(second)))).toBe(true)
    expect(await rowOf(id)).toBeUndefined()
    expect(await two.heartbeat(held(2), leaseMs)).toEqual(none)
  })

  test('are locked in order of id by a heartbeat, so that cancelling several cannot deadlock with it', async () => {
    await Promise.all([addJob(), addJob()])
    const [one] = stores()
    const ids = (await lease(one)).map(({ generation_id }) => generation_id).sort()
    const [first = '', second = ''] = ids
    const held = new Map([second, first].map((id) => [id, { attempt: 1, fraction: 0 }]))
    const waiting = async () =>
      (await sql`select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`).length
    await inTransaction(async (tx) => {
      await one.cancel(tx, first)
      const heartbeat = one.heartbeat(held, leaseMs)
      await until(async () => (await waiting()) === 1, 'the heartbeat waits')
      // This would deadlock if the heartbeat had locked this job first.
      await one.cancel(tx, second)
      return { heartbeat }
    }).then(async ({ heartbeat }) => expect(await heartbeat).toEqual(new Set()))
  })

  test('that are rescheduled are due after the delay, with their recorded order and number of failures', async () => {
    const id = await addJob()
    const [one, two] = stores()
    const [first] = await lease(one)
    if (first === undefined) throw new Error('No job was leased')
    expect(await one.recordRemoteOrder(leaseOf(first), { request: 'r-1' })).toBe(true)
    await one.reschedule(leaseOf(first), 50, true)
    expect([await one.isAnyDue(), await lease(two)]).toEqual([false, []])
    await sql`select pg_sleep(0.06)`
    expect(await lease(two)).toMatchObject([{ attempt: 2, failures: 1, remote: { request: 'r-1' } }])
    expect(await rowOf(id)).toMatchObject({ worker: 'two' })
  })

  test('end once when cancelled and completed concurrently', async () => {
    const id = await addJob()
    const [one] = stores()
    const [first] = await lease(one)
    if (first === undefined) throw new Error('No job was leased')
    const cancel = () =>
      inTransaction(async (tx) => {
        await tx`select from generations where id = ${id} for no key update`
        return one.cancel(tx, id)
      })
    const outcomes = await Promise.all([cancel(), cancel(), inTransaction((tx) => one.complete(tx, leaseOf(first)))])
    expect(outcomes.filter(Boolean)).toHaveLength(1)
  })
})

describe('recorded orders at providers', () => {
  const remote = { request_id: 'r-1' }
  const leaseWithOrder = async (order: unknown = remote) => {
    const id = await addJob()
    const [one] = stores()
    const [job] = await lease(one)
    if (job === undefined) throw new Error('No job was leased')
    expect(await one.recordRemoteOrder(leaseOf(job), order)).toBe(true)
    return { id, job }
  }
  const enqueuedCancellations = async () => [
    ...(await sql`select generation_id, model, remote from order_cancellations`),
  ]
  beforeEach(async () => {
    await sql`delete from order_cancellations`
  })

  test('are enqueued for cancellation when their job is cancelled or failed permanently, in the same transaction', async () => {
    const [one, two] = stores()
    for (const end of [
      (tx: TransactionSql, { id }: { id: string }) => two.cancel(tx, id),
      (tx: TransactionSql, { job }: Awaited<ReturnType<typeof leaseWithOrder>>) =>
        one.failPermanently(tx, leaseOf(job)),
    ]) {
      const ordered = await leaseWithOrder()
      await inTransaction((tx) => end(tx, ordered).then(() => Promise.reject(new Error('rolled back')))).catch(() => {})
      expect([await enqueuedCancellations(), await rowOf(ordered.id)]).toMatchObject([[], { remote }])
      expect(await inTransaction((tx) => end(tx, ordered))).toBe(true)
      expect(await enqueuedCancellations()).toEqual([{ generation_id: ordered.id, model: 'm', remote }])
      expect(await inTransaction((tx) => end(tx, ordered))).toBe(false)
      await sql`delete from order_cancellations`
    }
  })

  test('are not enqueued for cancellation without an order, after completion, or without the lease', async () => {
    const [one, two] = stores()
    const plain = await addJob()
    expect(await inTransaction((tx) => one.cancel(tx, plain))).toBe(true)
    expect(await inTransaction(async (tx) => one.cancel(tx, (await leaseWithOrder(null)).id))).toBe(true)
    expect(await inTransaction(async (tx) => one.complete(tx, leaseOf((await leaseWithOrder()).job)))).toBe(true)
    expect(await inTransaction(async (tx) => two.failPermanently(tx, leaseOf((await leaseWithOrder()).job)))).toBe(
      false,
    )
    expect(await enqueuedCancellations()).toEqual([])
  })

  test('are leased for cancellation by one worker, longest due first, and again after pauses that double', async () => {
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
    const leased = (await Promise.all([store.lease(['m'], 10, 60_000), other.lease(['m'], 10, 60_000)])).flat()
    expect(leased).toEqual([{ generation_id: young, model: 'm', remote }])
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
    expect((await enqueuedCancellations()).map(({ generation_id }) => generation_id)).toEqual([young])
    expect(foreign).not.toBe(young)
  })
})

test('a job cancelled between its lease and its start is not started, and the next one is', async () => {
  const [id, next] = [await addJob(), await addJob()]
  const [store] = stores()
  const leased = Promise.withResolvers<void>()
  const cancelled = Promise.withResolvers<void>()
  const started: string[] = []
  const runner = createRunner({
    store,
    // The jobs are leased in the database, and the runner does not have them yet.
    lease: async (limit, ms) => {
      const jobs = await inTransaction((tx) => store.lease(tx, limit, ms))
      leased.resolve()
      await cancelled.promise
      return jobs
    },
    work: {
      make: async (job) => void started.push(job.generation_id),
      complete: (_, lease) => inTransaction((tx) => store.complete(tx, lease)),
      failPermanently: async () => {},
      classifyFailure: () => ({ reason: 'failed', retryable: false }),
    },
    log: createLog('silent'),
    concurrency: 1,
    timeLimitMs: leaseMs,
  })
  await leased.promise
  await inTransaction((tx) => store.cancel(tx, id))
  runner.abort(id)
  cancelled.resolve()
  await until(async () => (await rowOf(next)) === undefined, 'the next job has ended')
  expect(started).toEqual([next])
  await runner.close()
})

test('the migration that introduces turns numbers the jobs of each owner by age', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'velro-sql-'))
  await cp(new URL('../../sql/', import.meta.url), folder, { recursive: true })
  const turns = (await readdir(folder)).find((name) => name.endsWith('_job_turns.sql')) ?? ''
  for (const name of await readdir(folder)) if (name >= turns && name < '1') await rm(join(folder, name))
  for (const name of ['job-turns.sql', 'project-access.sql', 'restrictions.sql', 'second-factor.sql'])
    await rm(join(folder, 'functions', name))
  const old = await createDatabase({ migrated: false })
  const outdated = connect(old.connection, { max: 1 })
  try {
    await migrate(outdated, pathToFileURL(`${folder}/`))
    const owners = [newId(), newId()]
    for (const id of owners) {
      await outdated`
        insert into users (id, email, display_name, password_hash) values (${id}, ${`${id}@example.com`}, 'U', 'x')`
    }
    const ids = [newId(), newId(), newId()]
    for (const [index, id] of ids.entries()) {
      await outdated`insert into generations (id, owner_id, model, prompt) values (${id}, ${owners[index >> 1] ?? ''}, 'm', 'p')`
      await outdated`insert into generation_jobs (generation_id, priority) values (${id}, 2)`
    }
    await migrate(outdated)
    const rows = await outdated`select generation_id, owner_id, turn::int from generation_jobs order by generation_id`
    expect([...rows]).toEqual([
      { generation_id: ids[0], owner_id: owners[0], turn: 0 },
      { generation_id: ids[1], owner_id: owners[0], turn: 1 },
      { generation_id: ids[2], owner_id: owners[1], turn: 0 },
    ])
  } finally {
    await outdated.end()
    await old.drop()
    await rm(folder, { recursive: true })
  }
})

test('the jobs migration cancels unfinished generations, and gives failed ones a reason', async () => {
  const text = await Bun.file(new URL('../../sql/000012_jobs.sql', import.meta.url)).text()
  const old = await createDatabase({ migrated: false })
  const outdated = connect(old.connection, { max: 1 })
  try {
    // The part of the earlier schema that the migration reads.
    await outdated`create table generations (id uuid primary key, status text not null)`
    for (const status of ['queued', 'processing', 'failed', 'completed']) {
      await outdated`insert into generations (id, status) values (${newId()}, ${status})`
    }
    await outdated.begin((tx) => tx.unsafe(text))
    expect((await outdated`select status, failure from generations order by id`).map(({ ...row }) => row)).toEqual([
      { status: 'cancelled', failure: null },
      { status: 'cancelled', failure: null },
      { status: 'failed', failure: 'failed' },
      { status: 'completed', failure: null },
    ])
  } finally {
    await outdated.end()
    await old.drop()
  }
})
