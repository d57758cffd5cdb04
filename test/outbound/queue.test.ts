import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { createOutboundQueue, type NewTask, type OutboundQueue } from '../../src/outbound/queue.ts'
import { type LeasedTask, retryFor, type TaskHandler } from '../../src/outbound/runner.ts'
import { createOutboundStore } from '../../src/outbound/store.ts'
import { createLog } from '../../src/platform/log.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

let database: TestDatabase
let sql: Sql
const clock = manualClock(Date.UTC(2030, 0, 1))
const queues: OutboundQueue[] = []

beforeAll(async () => {
  database = await createDatabase()
  sql = connectOnce(database.connection)
})
afterEach(async () => {
  for (const queue of queues.splice(0)) await queue.close()
  await sql`truncate outbound_tasks`
})
afterAll(async () => {
  await sql.end()
  await database.drop()
})

/** An instance that runs tasks of the kind `test`; one that is not started runs them by `drain` alone. */
const createQueue = (handler: Partial<TaskHandler> & Pick<TaskHandler, 'run'>): OutboundQueue => {
  const queue = createOutboundQueue({ store: createOutboundStore(sql), clock, log: createLog('silent') })
  queues.push(queue)
  queue.handle('test', { concurrency: 10, timeLimitMs: 30_000, retryInMs: () => 60_000, ...handler })
  return queue
}

const add = (queue: OutboundQueue, task: Partial<NewTask> = {}) =>
  sql.begin((tx) => queue.enqueue(tx, { kind: 'test', payload: {}, ...task }))
const countTasks = async () => (await sql`select from outbound_tasks`).count

const leased = async () => {
  while ((await sql`select from outbound_tasks where attempt = 1`).count === 0) await Bun.sleep(5)
}

/** Payloads in the order in which they were run. */
const recorder = () => {
  const runs: unknown[] = []
  return { runs, run: async ({ payload }: LeasedTask) => void runs.push(payload) }
}

describe('a task', () => {
  test('runs once its transaction is committed, and never when that is rolled back', async () => {
    const { runs, run } = recorder()
    const queue = createQueue({ run })
    await sql
      .begin(async (tx) => {
        await queue.enqueue(tx, { kind: 'test', payload: 'rolled back' })
        throw new Error('no')
      })
      .catch(() => {})
    await add(queue, { payload: { n: 1 } })
    await queue.drain()
    expect(runs).toEqual([{ n: 1 }])
    expect(await countTasks()).toBe(0)
  })

  test('that fails runs again after its pause, with the count of failures, until it succeeds', async () => {
    const failures: number[] = []
    const queue = createQueue({
      run: async (task) => {
        failures.push(task.failures)
        if (task.failures < 2) throw new Error('not yet')
      },
    })
    await add(queue)
    await queue.drain()
    await queue.drain()
    expect(failures).toEqual([0])
    clock.advance(60_000)
    await queue.drain()
    clock.advance(60_000)
    await queue.drain()
    expect(failures).toEqual([0, 1, 2])
    expect(await countTasks()).toBe(0)
  })

  test('is given up where the handler makes no further attempt', async () => {
    const given: unknown[] = []
    const queue = createQueue({
      run: () => Promise.reject(new Error('hopeless')),
      retryInMs: ({ failures }) => (failures < 2 ? 1_000 : undefined),
      onGivenUp: ({ payload }, error) => void given.push(payload, String(error)),
    })
    await add(queue, { payload: 'x' })
    await queue.drain()
    clock.advance(1_000)
    await queue.drain()
    expect(given).toEqual(['x', 'Error: hopeless'])
    expect(await countTasks()).toBe(0)
  })

  test('of a kind without a handler stays', async () => {
    const queue = createQueue({ run: async () => {} })
    await add(queue, { kind: 'other' })
    await queue.drain()
    expect(await countTasks()).toBe(1)
  })

  test('is not run before its time', async () => {
    const { runs, run } = recorder()
    const queue = createQueue({ run })
    await add(queue, { payload: 'later', runAt: new Date(clock.now() + 5_000) })
    await queue.drain()
    expect(runs).toEqual([])
    clock.advance(5_000)
    await queue.drain()
    expect(runs).toEqual(['later'])
  })

  test('whose worker hangs is aborted at its time limit and tried again', async () => {
    let runs = 0
    const queue = createQueue({
      timeLimitMs: 20,
      // Ignores its signal.
      run: () => {
        runs += 1
        return runs === 1 ? new Promise(() => {}) : Promise.resolve()
      },
    })
    await add(queue)
    await queue.drain()
    clock.advance(60_000)
    await queue.drain()
    expect([runs, await countTasks()]).toEqual([2, 0])
  })

  test('that its handler completes in its own transaction is done exactly when that is committed', async () => {
    let tries = 0
    const queue = createQueue({
      retryInMs: () => 1,
      run: (task) =>
        sql.begin(async (tx) => {
          tries += 1
          await tx`insert into mail_counts values (sha256('x'), 'test', '2030-01-01', 1)
                   on conflict on constraint mail_counts_pkey do update set mails = mail_counts.mails + 1`
          await task.complete(tx)
          if (tries === 1) throw new Error('rolled back')
        }) as Promise<void>,
    })
    await add(queue)
    await queue.drain()
    clock.advance(1)
    await queue.drain()
    const [row] = await sql<{ mails: number }[]>`select mails from mail_counts where template = 'test'`
    expect([tries, row?.mails, await countTasks()]).toEqual([2, 1, 0])
    await sql`truncate mail_counts`
  })
})

describe('of several instances', () => {
  test('each task is run by one, however many look for it', async () => {
    const { runs, run } = recorder()
    const all = Array.from({ length: 4 }, () => createQueue({ run, concurrency: 3 }))
    for (let n = 0; n < 40; n += 1) await add(all[0] as OutboundQueue, { payload: n })
    await Promise.all(all.map((queue) => queue.drain()))
    expect(runs.toSorted((a, b) => Number(a) - Number(b))).toEqual(Array.from({ length: 40 }, (_, n) => n))
  })

  test('another one takes a task over when the lease of a frozen one has ended, whose late end changes nothing', async () => {
    let thaw = () => {}
    const frozen = createQueue({ run: () => new Promise<void>((resolve) => (thaw = resolve)) })
    const { runs, run } = recorder()
    const other = createQueue({ run: (task) => run(task).then(() => Promise.reject(new Error('fails'))) })
    await add(frozen, { payload: 'taken over' })
    const frozenEnds = frozen.drain()
    await leased()
    await other.drain()
    expect(runs).toEqual([])
    clock.advance(30_000 + 15_000)
    await other.drain()
    expect(runs).toEqual(['taken over'])
    thaw()
    await frozenEnds
    expect(await countTasks()).toBe(1)
  })

  test('closing one makes its tasks due for the others at once', async () => {
    const closed = createQueue({ run: () => new Promise(() => {}) })
    const { runs, run } = recorder()
    const other = createQueue({ run })
    await add(closed, { payload: 'released' })
    void closed.drain()
    await leased()
    await closed.close()
    await other.drain()
    expect(runs).toEqual(['released'])
  })
})

describe('tasks with one ordering key', () => {
  test('run one after the other in their order, over all instances, beside those of other keys', async () => {
    const running = new Set<string>()
    const runs: Record<string, number[]> = { a: [], b: [] }
    let most = 0
    const run = async ({ payload }: LeasedTask) => {
      const { key, n } = payload as { key: string; n: number }
      expect(running.has(key)).toBe(false)
      running.add(key)
      most = Math.max(most, running.size)
      await Bun.sleep(2)
      running.delete(key)
      runs[key]?.push(n)
    }
    const all = [createQueue({ run }), createQueue({ run }), createQueue({ run })]
    for (let n = 0; n < 10; n += 1)
      for (const key of ['a', 'b']) await add(all[0] as OutboundQueue, { payload: { key, n }, orderingKey: key })
    // An instance that finds the head of each key leased has nothing due, and must not be the one to look again.
    while ((await countTasks()) > 0) await Promise.all(all.map((queue) => queue.drain()))
    const order = Array.from({ length: 10 }, (_, n) => n)
    expect(runs).toEqual({ a: order, b: order })
    expect(most).toBe(2)
  })

  test('wait behind one that failed, and go on when it is given up', async () => {
    const { runs, run } = recorder()
    const queue = createQueue({
      run: (task) => (task.payload === 'bad' ? Promise.reject(new Error('bad')) : run(task)),
      retryInMs: ({ failures }) => (failures === 1 ? 10_000 : undefined),
    })
    for (const payload of ['bad', 'second', 'third']) await add(queue, { payload, orderingKey: 'one' })
    await add(queue, { payload: 'other', orderingKey: 'two' })
    await queue.drain()
    expect(runs).toEqual(['other'])
    clock.advance(10_000)
    await queue.drain()
    expect(runs).toEqual(['other', 'second', 'third'])
  })
})

describe('a task whose dedupe key is taken', () => {
  test('is dropped while the other one is unfinished, and taken after that', async () => {
    const { runs, run } = recorder()
    const queue = createQueue({ run })
    for (const payload of ['first', 'dropped']) await add(queue, { payload, dedupeKey: 'k' })
    await queue.drain()
    await add(queue, { payload: 'again', dedupeKey: 'k' })
    await queue.drain()
    expect(runs).toEqual(['first', 'again'])
  })

  test('replaces the other one on request, even while that is being run', async () => {
    const runs: unknown[] = []
    const queue = createQueue({
      run: async ({ payload }) => {
        runs.push(payload)
        if (payload === 'first') await add(queue, { payload: 'newer', dedupeKey: 'k', onDuplicate: 'replace' })
      },
    })
    await add(queue, { payload: 'first', dedupeKey: 'k' })
    await queue.drain()
    expect(runs).toEqual(['first', 'newer'])
    expect(await countTasks()).toBe(0)
  })
})

test('closing an account deletes the tasks that may hold its data', async () => {
  const queue = createQueue({ run: async () => {} })
  const userId = '01890000-0000-7000-8000-000000000001'
  await add(queue, { kind: 'other', userId })
  await add(queue, { kind: 'other' })
  await sql.begin((tx) => queue.forgetUser(tx, userId))
  expect(await countTasks()).toBe(1)
})

test('pauses double up to the longest, and end with the total time', () => {
  const retry = retryFor({ firstMs: 1_000, longestMs: 8_000, totalMs: 60_000 }, () => 0)
  const pauses = [1, 2, 3, 4, 5, 500].map((failures) => retry({ failures, ageMs: 0 }))
  expect(pauses).toEqual([1_000, 2_000, 4_000, 8_000, 8_000, 8_000])
  expect(retry({ failures: 5, ageMs: 52_000 })).toBe(8_000)
  expect(retry({ failures: 5, ageMs: 52_001 })).toBeUndefined()
})
