import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { copyFile, mkdir, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { v7 } from 'uuid'
import { createCredits } from '../../src/credits/service.ts'
import { createCreditStore } from '../../src/credits/store.ts'
import { newId } from '../../src/kit/id.ts'
import { migrate } from '../../src/platform/migrate.ts'
import { connect, connectOnce, type Queryable, type Sql, type TransactionSql } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

let database: TestDatabase
let sql: Sql

beforeAll(async () => {
  database = await createDatabase()
  sql = connect(database.connection, { max: 20 })
})
afterAll(async () => {
  await sql?.end({ timeout: 1 })
  await database?.drop()
})

const creditsOf = () =>
  createCredits({
    store: createCreditStore(sql),
    operators: { requireForShare: () => Promise.reject(new Error('not here')) },
    changes: { commitAndInvalidate: () => Promise.reject(new Error('not here')) },
    idempotency: { once: () => Promise.reject(new Error('not here')) },
  })

const insertUser = async (on: Queryable = sql): Promise<string> => {
  const id = newId()
  await on`
    insert into users (id, email, display_name, password_hash) values (${id}, ${`${id}@example.com`}, 'A user', 'x')`
  return id
}
/** Creates a user with a balance. */
const withCredits = async (amount: number): Promise<string> => {
  const id = await insertUser()
  await sql.begin((tx) => creditsOf().welcome(tx, id, amount))
  return id
}
const credits = () => creditsOf()
const reserve = (userId: string, generationId: string, amount: number) =>
  sql.begin((tx) => credits().reserve(tx, userId, generationId, amount))
const settle = (generationId: string) => sql.begin((tx) => credits().settle(tx, generationId))
const refund = (generationId: string) => sql.begin((tx) => credits().refund(tx, generationId))

/** The balance, the sum of the entries, and the lowest balance after an entry, in one snapshot. */
const readBooks = async (userId: string) => {
  const [row] = await sql<{ balance: number; sum: number; least: number }[]>`
    select (select balance::int from credit_balances b where b.user_id = ${userId}) as balance,
           coalesce(sum(amount), 0)::int as sum, min(balance_after)::int as least
      from credit_ledger where user_id = ${userId}`
  return row as { balance: number; sum: number; least: number }
}
const kindsOf = async (generationId: string) =>
  (await sql`select kind from credit_ledger where generation_id = ${generationId} order by id`).map(({ kind }) => kind)

const outcomes = async (attempts: readonly Promise<unknown>[]) => {
  const settled = await Promise.allSettled(attempts)
  const failures = settled.flatMap((each) => (each.status === 'rejected' ? [each.reason] : []))
  return { done: settled.length - failures.length, failures }
}
const refused = (work: Promise<unknown>) =>
  work.then(
    () => 'done',
    (error) => error.constraint_name ?? error.code,
  )

describe('a balance', () => {
  test('of 10 accepts ten of a hundred concurrent reservations of 1, and the others get the missing amount', async () => {
    const ada = await withCredits(10)
    const { done, failures } = await outcomes(Array.from({ length: 100 }, () => reserve(ada, newId(), 1)))
    expect(done).toBe(10)
    expect(failures.map(({ code, extensions }) => [code, extensions])).toEqual(
      Array(90).fill(['credits.insufficient', { missing: 1, balance: 0, price: 1 }]),
    )
    expect(await readBooks(ada)).toEqual({ balance: 0, sum: 0, least: 0 })
  })

  test('cannot become negative, even by concurrent inserts that do not read it first', async () => {
    const ada = await withCredits(10)
    const { done, failures } = await outcomes(
      Array.from(
        { length: 30 },
        () => sql`
          insert into credit_ledger (id, user_id, kind, amount, generation_id)
          values (${newId()}, ${ada}, 'reserve', -3, ${newId()})`,
      ),
    )
    expect(done).toBe(3)
    expect(new Set(failures.map(({ constraint_name }) => constraint_name))).toEqual(
      new Set(['credit_balances__balance']),
    )
    expect(await readBooks(ada)).toEqual({ balance: 1, sum: 1, least: 1 })
  })

  test('is 0 for an account without entries, and the missing amount is the whole price', async () => {
    const ada = await insertUser()
    await expect(reserve(ada, newId(), 7)).rejects.toMatchObject({ extensions: { missing: 7, balance: 0, price: 7 } })
  })

  test('equals the sum of the ledger in every snapshot during random concurrent changes and rollbacks', async () => {
    const people = [await withCredits(200), await withCredits(5), await withCredits(60)]
    const generations: { id: string; owner: string }[] = []
    const random = <T>(items: readonly T[]) => items[Math.floor(Math.random() * items.length)] as T
    const rolledBack = new Error('rolled back')
    const generationOf = (owner: string) => random(generations.filter((each) => each.owner === owner))?.id ?? newId()
    const operations: Record<string, (tx: TransactionSql, owner: string) => Promise<unknown>> = {
      reserve: async (tx, owner) => {
        const id = newId()
        await credits().reserve(tx, owner, id, 1 + Math.floor(Math.random() * 20))
        generations.push({ id, owner })
      },
      settle: async (tx, owner) => credits().settle(tx, generationOf(owner)),
      refund: async (tx, owner) => credits().refund(tx, generationOf(owner)),
      grant: (tx, owner) => tx`
        insert into credit_ledger (id, user_id, kind, amount, created_by)
        values (${newId()}, ${owner}, 'grant', 3, ${owner})`,
    }
    let isRunning = true
    let snapshots = 0
    const differences: unknown[] = []
    const watch = async () => {
      for (; isRunning; snapshots += 1) {
        for (const person of people) {
          const { balance, sum, least } = await readBooks(person)
          if (balance !== sum || least < 0) differences.push({ person, balance, sum, least })
        }
      }
    }
    const watching = watch()
    const failures: unknown[] = []
    await Promise.all(
      Array.from({ length: 12 }, async () => {
        for (let round = 0; round < 40; round += 1) {
          const person = random(people)
          const work = sql.begin(async (tx) => {
            for (let step = 0; step <= Math.random() * 2; step += 1) {
              await random([...Object.values(operations), operations['reserve'] as never])(tx, person)
            }
            if (Math.random() < 0.3) throw rolledBack
          })
          await work.catch((error) => {
            if (error !== rolledBack && error.code !== 'credits.insufficient') failures.push(error)
          })
        }
      }),
    )
    isRunning = false
    await watching
    expect(failures).toEqual([])
    expect(differences).toEqual([])
    expect(snapshots).toBeGreaterThan(5)
    const [counted] = await sql<{ reserved: number; closed: number; twice: number }[]>`
      select count(*) filter (where kind = 'reserve')::int as reserved,
             count(*) filter (where kind in ('settle', 'refund'))::int as closed,
             count(*) filter (where kind in ('settle', 'refund'))::int
               - count(distinct generation_id) filter (where kind in ('settle', 'refund'))::int as twice
        from credit_ledger where user_id in ${sql(people)}`
    expect(counted?.reserved).toBeGreaterThan(20)
    expect(counted?.closed).toBeGreaterThan(10)
    expect(counted?.twice).toBe(0)
  }, 60_000)
})

describe('a reservation for a generation', () => {
  test('is settled or refunded exactly once by twenty concurrent calls', async () => {
    const ada = await withCredits(100)
    for (let round = 0; round < 10; round += 1) {
      const id = newId()
      const { balance } = await readBooks(ada)
      await reserve(ada, id, 10)
      const did = await Promise.all(Array.from({ length: 20 }, (_, at) => (at % 2 === 0 ? settle(id) : refund(id))))
      expect(did.filter(Boolean)).toHaveLength(1)
      const kinds = await kindsOf(id)
      expect(kinds).toEqual(['reserve', did.indexOf(true) % 2 === 0 ? 'settle' : 'refund'])
      expect((await readBooks(ada)).balance).toBe(kinds[1] === 'refund' ? balance : balance - 10)
      if (kinds[1] === 'settle') await withTopUp(ada, 10)
    }
  })
  const withTopUp = (userId: string, amount: number) => sql`
    insert into credit_ledger (id, user_id, kind, amount, created_by)
    values (${newId()}, ${userId}, 'grant', ${amount}, ${userId})`

  test('can be refunded after a concurrent settlement was rolled back', async () => {
    const ada = await withCredits(10)
    const id = newId()
    await reserve(ada, id, 10)
    const started = Promise.withResolvers<void>()
    const end = Promise.withResolvers<void>()
    const first = sql
      .begin(async (tx) => {
        expect(await credits().settle(tx, id)).toBe(true)
        started.resolve()
        await end.promise
      })
      .catch((error) => error)
    await started.promise
    const second = refund(id)
    end.reject(new Error('rolled back'))
    expect((await first).message).toBe('rolled back')
    expect(await second).toBe(true)
    expect([await refund(id), await settle(id)]).toEqual([false, false])
    expect(await readBooks(ada)).toEqual({ balance: 10, sum: 10, least: 0 })
  })

  test('that does not exist cannot be settled or refunded', async () => {
    expect([await refund(newId()), await settle(newId())]).toEqual([false, false])
  })

  test('is made at most once', async () => {
    const ada = await withCredits(10)
    const id = newId()
    await reserve(ada, id, 1)
    expect(await refused(reserve(ada, id, 1))).toBe('credit_ledger__reserved_once')
    expect(await readBooks(ada)).toEqual({ balance: 9, sum: 9, least: 9 })
  })
})

describe('the ledger', () => {
  const entry = (userId: string, kind: string, amount: number, rest: object = {}) => sql`
    insert into credit_ledger ${sql({ id: newId(), user_id: userId, kind, amount, ...rest })}`

  test('is append-only, and balances cannot be written directly', async () => {
    const ada = await withCredits(10)
    const denied = '42501'
    for (const change of [
      sql`update credit_ledger set amount = 20 where user_id = ${ada}`,
      sql`update credit_ledger set note = 'x' where false`,
      sql`delete from credit_ledger where user_id = ${ada}`,
      sql`truncate credit_ledger`,
      sql`truncate users cascade`,
      sql`insert into credit_ledger (id, user_id, kind, amount) values (${newId()}, ${ada}, 'welcome', 5)
            on conflict (user_id) where kind = 'welcome' do update set amount = 9`,
      sql`update credit_balances set balance = 1000000 where user_id = ${ada}`,
      sql`delete from credit_balances where user_id = ${ada}`,
      sql`truncate credit_balances`,
    ]) {
      expect(await refused(change)).toBe(denied)
    }
    expect(await readBooks(ada)).toEqual({ balance: 10, sum: 10, least: 10 })
    const ben = await insertUser()
    const { count } = await sql`insert into credit_balances (user_id, balance) values (${ben}, 5), (${ada}, 5)`
    expect(count).toBe(0)
    expect(await readBooks(ada)).toEqual({ balance: 10, sum: 10, least: 10 })
    expect((await readBooks(ben)).balance).toBeNull()
  })

  /** The kinds of all entries by id. Expects that balance and time of each follow from the previous entry. */
  const chainOf = async (userId: string) => {
    const rows = await sql<{ id: string; kind: string; follows: boolean }[]>`
      select id, kind, balance_after = amount + coalesce(lag(balance_after) over by_id, 0)
                       and created_at >= coalesce(lag(created_at) over by_id, '-infinity') as follows
        from credit_ledger where user_id = ${userId} window by_id as (order by id) order by id`
    expect(rows.filter(({ follows }) => !follows)).toEqual([])
    for (const { id } of rows)
      expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
    return rows.map(({ kind }) => kind)
  }

  test('is ordered by id as the balance changed, even if entries waited for the lock of the balance', async () => {
    const ada = await withCredits(100)
    const [one, two] = [newId(), newId()]
    for (const id of [one, two]) await reserve(ada, id, 10)
    const waiting = (count: number) =>
      until(async () => {
        const [row] = await sql<{ waiting: number }[]>`
          select count(*)::int as waiting from pg_stat_activity
           where datname = current_database() and wait_event_type = 'Lock'`
        return row?.waiting === count
      }, `${count} transactions wait for the balance`)
    let waited: Promise<unknown> | undefined
    await sql.begin(async (tx) => {
      await tx`select from credit_balances where user_id = ${ada} for update`
      const refunded = refund(one)
      await waiting(1)
      const settled = settle(two)
      await waiting(2)
      waited = Promise.all([refunded, settled, reserve(ada, newId(), 5)])
      await waiting(3)
      await credits().reserve(tx, ada, newId(), 7)
    })
    await waited
    const kinds = await chainOf(ada)
    expect(kinds.slice(0, 4)).toEqual(['welcome', 'reserve', 'reserve', 'reserve'])
    expect(kinds.slice(4).sort()).toEqual(['refund', 'reserve', 'settle'])
  })

  test('is ordered by id as the balance changed, even if the clock of one instance is ahead', async () => {
    const ada = await withCredits(100)
    const ahead = () => v7({ msecs: Date.now() + 60_000 })
    for (let round = 0; round < 5; round += 1) {
      const id = newId()
      await entry(ada, 'grant', 3, { id: ahead(), created_by: ada })
      await reserve(ada, id, 10)
      await (round % 2 === 0 ? settle(id) : refund(id))
    }
    const closed = Array.from({ length: 5 }, (_, round) => ['grant', 'reserve', round % 2 === 0 ? 'settle' : 'refund'])
    expect(await chainOf(ada)).toEqual(['welcome', ...closed.flat()])
  })

  test('with a skipped or refused entry leaves the balance unchanged', async () => {
    const ada = await withCredits(10)
    await sql`
      insert into credit_ledger (id, user_id, kind, amount) values (${newId()}, ${ada}, 'welcome', 5)
      on conflict do nothing`
    expect(await readBooks(ada)).toEqual({ balance: 10, sum: 10, least: 10 })
    expect(await refused(entry(ada, 'welcome', 5))).toBe('credit_ledger__welcomed_once')
    const two = [newId(), newId()].map((id) => ({ id, user_id: ada, kind: 'grant', amount: 1, created_by: ada }))
    expect(await refused(sql`insert into credit_ledger ${sql(two)}`)).toBe('23000')
    expect(await readBooks(ada)).toEqual({ balance: 10, sum: 10, least: 10 })
  })

  const restored = (userId: string, generation: string) =>
    [
      { kind: 'welcome', amount: 10, balance_after: 10, generation_id: null },
      { kind: 'reserve', amount: -4, balance_after: 6, generation_id: generation },
      { kind: 'refund', amount: 4, balance_after: 10, generation_id: generation },
      { kind: 'reserve', amount: -1, balance_after: 9, generation_id: newId() },
    ].map((each, nth) => ({
      id: newId(),
      user_id: userId,
      created_at: new Date(Date.UTC(2020, 0, 1 + nth)),
      ...each,
    }))

  test('takes entries that say their balance_after as they are, in any order, and the balance follows', async () => {
    for (const order of [
      [0, 1, 2, 3],
      [3, 2, 1, 0],
      [0, 3, 1, 2],
      [1, 0, 3, 2],
    ]) {
      const [ada, ben] = [await insertUser(), await insertUser()]
      const entries = [...restored(ada, newId()), ...restored(ben, newId())]
      const rows = [...order, ...order.map((nth) => nth + 4)].map((nth) => entries[nth] as object)
      await sql`insert into credit_ledger ${sql(rows)}`
      const stored = await sql`
        select id, user_id, created_at, kind, amount, balance_after::int as balance_after, generation_id
          from credit_ledger where user_id in (${ada}, ${ben}) order by id`
      expect([...stored]).toEqual(entries)
      expect([await readBooks(ada), await readBooks(ben)]).toEqual(Array(2).fill({ balance: 9, sum: 9, least: 6 }))
      await entry(ada, 'grant', 5, { created_by: ada })
      expect(await readBooks(ada)).toEqual({ balance: 14, sum: 14, least: 6 })
    }
  })

  test('refuses entries whose given balance_after is not their sum, or that lack a reservation', async () => {
    const ada = await withCredits(10)
    const refusal = '23000'
    expect(await refused(entry(ada, 'grant', 5, { created_by: ada, balance_after: 1_000_000 }))).toBe(refusal)
    expect(await readBooks(ada)).toEqual({ balance: 10, sum: 10, least: 10 })
    const ben = await insertUser()
    const [welcome, reserved, refund] = restored(ben, newId()) as [object, object, object]
    const rich = { ...welcome, amount: 1_000, balance_after: 10 }
    const more = { ...refund, amount: 1_000, balance_after: 1_006 }
    for (const rows of [[rich], [welcome, { ...refund, balance_after: 14 }], [welcome, reserved, more]])
      expect(await refused(sql`insert into credit_ledger ${sql(rows)}`)).toBe(refusal)
    expect((await readBooks(ben)).sum).toBe(0)
  })

  test('refuses entries whose amount, generation or creator does not fit the kind', async () => {
    const ada = await withCredits(10)
    const id = newId()
    await reserve(ada, id, 4)
    const ben = await withCredits(10)
    for (const [kind, amount, rest, why] of [
      ['gift', 1, {}, 'credit_ledger__amount'],
      ['grant', 0, { created_by: ada }, 'credit_ledger__amount'],
      ['grant', 1, {}, 'credit_ledger__created_by'],
      ['grant', -1, { created_by: ada }, 'credit_ledger__amount'],
      ['reserve', 1, { generation_id: newId() }, 'credit_ledger__amount'],
      ['reserve', -1, {}, 'credit_ledger__generation_id'],
      ['refund', 3, { generation_id: id }, '23000'],
      ['refund', 5, { generation_id: id }, '23000'],
      ['refund', 4, { generation_id: newId() }, '23000'],
      ['settle', -1, { generation_id: id }, 'credit_ledger__amount'],
    ] as const) {
      expect([kind, amount, await refused(entry(ada, kind, amount, rest))]).not.toEqual([kind, amount, 'done'])
      if (why !== 'credit_ledger__amount') expect(await refused(entry(ada, kind, amount, rest))).toBe(why)
    }
    expect(await refused(entry(ben, 'refund', 4, { generation_id: id }))).toBe('23000')
    expect((await readBooks(ada)).balance).toBe(6)
  })
})

describe('the migration that adds credits', () => {
  test('grants existing accounts the welcome credits, except closed ones', async () => {
    const source = fileURLToPath(new URL('../../sql/', import.meta.url))
    const folder = await mkdtemp(join(tmpdir(), 'velro-migrations-'))
    const own = await createDatabase({ migrated: false })
    const on = connectOnce(own.connection)
    try {
      const names = (await readdir(source)).filter((name) => /^\d{6}_/.test(name)).sort()
      const earlier = names.slice(
        0,
        names.findIndex((name) => name.endsWith('_credits.sql')),
      )
      for (const name of earlier) await copyFile(join(source, name), join(folder, name))
      await mkdir(join(folder, 'functions'))
      await migrate(on, pathToFileURL(`${folder}/`))
      const users = await Promise.all(Array.from({ length: 5 }, () => insertUser(on)))
      await on`update users set status = 'deleted', email = null, password_hash = null where id = ${users[0] as string}`
      await on`update users set status = 'suspended' where id = ${users[1] as string}`
      const before = Date.now()
      expect((await migrate(on)).join()).toContain('_credits.sql')
      const rows = await on<{ id: string; user_id: string; balance: string; sum: number; kind: string }[]>`
        select l.id, l.user_id, b.balance, l.amount as sum, l.kind from credit_ledger l join credit_balances b using (user_id)`
      expect(rows.map(({ user_id }) => user_id).sort()).toEqual(users.slice(1).sort())
      for (const { id, balance, sum, kind } of rows) {
        expect([balance, sum, kind]).toEqual(['1000', 1_000, 'welcome'])
        expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
        const madeMs = Number.parseInt(id.replaceAll('-', '').slice(0, 12), 16)
        expect(Math.abs(madeMs - before)).toBeLessThan(60_000)
      }
    } finally {
      await on.end()
      await own.drop()
      await rm(folder, { recursive: true })
    }
  })
})
