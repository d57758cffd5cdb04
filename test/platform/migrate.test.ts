import { afterEach, beforeEach, describe, expect, test } from 'bun:test'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { MigrationRefused, migrate } from '../../src/platform/migrate.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

const createFolder = async (): Promise<string> => {
  const created = await mkdtemp(join(tmpdir(), 'velro-migrations-'))
  await mkdir(join(created, 'functions'))
  return created
}

let database: TestDatabase
let sql: Sql
let folder: string

beforeEach(async () => {
  database = await createDatabase({ migrated: false })
  sql = connectOnce(database.connection)
  folder = await createFolder()
})

afterEach(async () => {
  await sql.end({ timeout: 0 })
  await database.drop()
  await rm(folder, { recursive: true })
})

const one = '000001_one.sql'
const two = '000002_two.sql'
const three = '000003_three.sql'

const write = async (files: Record<string, string>) => {
  for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text)
}
const run = (on = sql) => migrate(on, pathToFileURL(`${folder}/`))
const refusalOf = (promise: Promise<unknown>) =>
  promise.then(
    () => undefined,
    (error: unknown) => error,
  )

const locksHeld = async (on: Sql): Promise<number> =>
  (await on`select from pg_locks where locktype = 'advisory' and granted and pid <> pg_backend_pid()`).count

const until = async (isDone: () => Promise<boolean>) => {
  for (const giveUpAt = performance.now() + 10_000; !(await isDone()); ) {
    if (performance.now() > giveUpAt) throw new Error('the condition did not become true within 10 s')
  }
}

/** All tables and the bookkeeping of the migrations. */
const stateOf = async () => {
  const tables = await sql<{ name: string }[]>`
    select relname as name from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' order by 1`
  const names = tables.map(({ name }) => name)
  if (!names.includes('schema_migrations')) return { tables: names, applied: [], functions: [] }
  return {
    tables: names.filter((name) => !name.startsWith('schema_')),
    applied: [...(await sql`select version, name, checksum, applied_at from schema_migrations order by version`)],
    functions: [...(await sql`select name, checksum, applied_at from schema_functions order by name`)],
  }
}

const answer = (value: number) => `create or replace function answer() returns integer language sql return ${value}`
const answerOf = async (): Promise<unknown> => (await sql`select answer() as value`)[0]?.['value']

test('an empty database gets every file once, in the order of the numbers', async () => {
  await write({
    [two]: 'create table b (a_id integer references a (id)); insert into a values (2);',
    [one]: 'create table a (id integer primary key);\ninsert into a values (1);',
    'README.md': 'not a migration',
    'schema.sql': 'syntax error',
  })
  expect(await run()).toEqual([one, two])
  expect(await run()).toEqual([])
  const { tables, applied } = await stateOf()
  expect(tables).toEqual(['a', 'b'])
  expect(applied).toMatchObject([
    { version: 1, name: one },
    { version: 2, name: two },
  ])
  expect((await sql`select id from a order by id`).map(({ id }) => id)).toEqual([1, 2])
})

test('a database of an older version gets only the missing files', async () => {
  await write({ [one]: 'create table a ()' })
  await run()
  await write({ [two]: 'create table b ()' })
  expect(await run()).toEqual([two])
  expect((await stateOf()).tables).toEqual(['a', 'b'])
})

test('of six instances that start at once one applies the files, and the others wait and apply none', async () => {
  await write({
    [one]: 'create table a (); select pg_sleep(0.05)',
    [two]: 'create table b ()',
    'functions/f.sql': answer(1),
  })
  const others = Array.from({ length: 5 }, () => connectOnce(database.connection))
  try {
    const results = await Promise.all([sql, ...others].map(run))
    expect(results.filter((applied) => applied.length > 0)).toEqual([[one, two, 'functions/f.sql']])
    expect((await stateOf()).applied.length).toBe(2)
  } finally {
    await Promise.all(others.map((other) => other.end()))
  }
})

describe('function files', () => {
  test('are applied after the numbered files, in the order of their names, and again only when they changed', async () => {
    await write({
      [one]: 'create table a (id integer)',
      'functions/b.sql': 'create or replace view v as select answer() as value, id from a',
      'functions/a.sql': answer(1),
      'functions/README.md': 'not SQL',
    })
    expect(await run()).toEqual([one, 'functions/a.sql', 'functions/b.sql'])
    expect(await run()).toEqual([])
    const [, before] = (await stateOf()).functions
    await write({ 'functions/a.sql': answer(2) })
    expect(await run()).toEqual(['functions/a.sql'])
    expect(await answerOf()).toBe(2)
    expect((await stateOf()).functions).toMatchObject([{ name: 'a.sql' }, before ?? {}])
  })

  test('that changed at once for six instances are applied by one', async () => {
    await write({ [one]: 'create table a ()', 'functions/f.sql': answer(1) })
    await run()
    await write({ 'functions/f.sql': `select pg_sleep(0.05); ${answer(2)}` })
    const others = Array.from({ length: 5 }, () => connectOnce(database.connection))
    try {
      const results = await Promise.all([sql, ...others].map(run))
      expect(results.filter((applied) => applied.length > 0)).toEqual([['functions/f.sql']])
      expect(await answerOf()).toBe(2)
    } finally {
      await Promise.all(others.map((other) => other.end()))
    }
  })

  test('of an older build are not applied to a newer database, and those of the newer build are not applied twice', async () => {
    await write({ [one]: 'create table a ()', 'functions/f.sql': answer(1) })
    await run()
    await write({ [two]: 'create table b ()', 'functions/f.sql': answer(2), 'functions/g.sql': 'select 1' })
    expect(await run()).toEqual([two, 'functions/f.sql', 'functions/g.sql'])
    const before = await stateOf()
    await rm(join(folder, two))
    await rm(join(folder, 'functions/g.sql'))
    await write({ 'functions/f.sql': answer(1) })
    expect(await run()).toEqual([])
    expect(await answerOf()).toBe(2)
    await write({ [two]: 'create table b ()', 'functions/f.sql': answer(2), 'functions/g.sql': 'select 1' })
    expect(await run()).toEqual([])
    expect(await stateOf()).toEqual(before)
  })

  test('of an older build that waits for a newer one to migrate are not applied', async () => {
    await write({ [one]: 'create table a ()', 'functions/f.sql': answer(1) })
    await run()
    await write({ [two]: 'create table b (); select pg_sleep(0.3)', 'functions/f.sql': answer(2) })
    const older = await createFolder()
    await writeFile(join(older, one), 'create table a ()')
    await writeFile(join(older, 'functions/f.sql'), answer(3))
    const other = connectOnce(database.connection)
    try {
      const newer = run()
      await until(async () => (await locksHeld(other)) > 0)
      expect(await migrate(other, pathToFileURL(`${older}/`))).toEqual([])
      expect(await newer).toEqual([two, 'functions/f.sql'])
      expect(await answerOf()).toBe(2)
    } finally {
      await other.end()
      await rm(older, { recursive: true })
    }
  })

  test('that were removed lose their row, and are applied again when they return', async () => {
    await write({ [one]: 'create table a ()', 'functions/f.sql': answer(1) })
    await run()
    await rm(join(folder, 'functions/f.sql'))
    expect(await run()).toEqual([])
    expect((await stateOf()).functions).toEqual([])
    await write({ 'functions/f.sql': answer(1) })
    expect(await run()).toEqual(['functions/f.sql'])
  })

  test('whose row a migration deletes are applied again, so that the migration can drop their views and functions', async () => {
    await write({
      [one]: 'create table a (id integer)',
      'functions/v.sql': 'create or replace view v as select id from a',
    })
    await run()
    await write({
      [two]: "drop view v; alter table a alter id type bigint; delete from schema_functions where name = 'v.sql'",
    })
    expect(await run()).toEqual([two, 'functions/v.sql'])
    expect([...(await sql`select id from v`)]).toEqual([])
  })
})

describe('nothing is changed', () => {
  test('when a file was edited after it was applied', async () => {
    await write({ [one]: 'create table a ()' })
    await run()
    const before = await stateOf()
    await write({ [one]: 'create table a (); -- edited', [two]: 'create table b ()' })
    const refusal = await refusalOf(run())
    expect(refusal).toBeInstanceOf(MigrationRefused)
    expect(String(refusal)).toContain(one)
    expect(await stateOf()).toEqual(before)
  })

  test('when one of several files fails, not even by the files before it', async () => {
    await write({ [one]: 'create table a ()', [two]: 'create table b (); create table a ()' })
    expect(await refusalOf(run())).toMatchObject({ code: '42P07' })
    expect(await stateOf()).toEqual({ tables: [], applied: [], functions: [] })
    await write({ [two]: 'create table b ()' })
    expect(await run()).toEqual([one, two])
  })

  test('when a function file fails, not even by the numbered files', async () => {
    await write({ [one]: 'create table a ()', 'functions/f.sql': 'create or replace view v as select * from missing' })
    expect(await refusalOf(run())).toMatchObject({ code: '42P01' })
    expect(await stateOf()).toEqual({ tables: [], applied: [], functions: [] })
  })

  test('when the folder of the functions is missing, as in an incomplete image', async () => {
    await write({ [one]: 'create table a ()' })
    await rm(join(folder, 'functions'), { recursive: true })
    expect(await refusalOf(run())).toMatchObject({ code: 'ENOENT' })
    expect(await stateOf()).toEqual({ tables: [], applied: [], functions: [] })
  })

  test('when a number is missing or used twice', async () => {
    for (const files of [
      { [two]: 'create table b ()' },
      { [one]: 'create table a ()', [three]: 'create table c ()' },
      { [one]: 'create table a ()', '000001_other.sql': 'create table b ()' },
    ]) {
      await rm(folder, { recursive: true })
      folder = await createFolder()
      await write(files)
      expect(await refusalOf(run())).toBeInstanceOf(MigrationRefused)
      expect(await stateOf()).toEqual({ tables: [], applied: [], functions: [] })
    }
  })

  test('when the database is ahead of the files, as after starting an older build again', async () => {
    await write({ [one]: 'create table a ()', [two]: 'create table b ()', [three]: 'create table c ()' })
    await run()
    const before = await stateOf()
    await rm(join(folder, two))
    await rm(join(folder, three))
    expect(await run()).toEqual([])
    expect(await stateOf()).toEqual(before)
  })
})

describe('while other instances serve', () => {
  beforeEach(async () => {
    await write({ [one]: 'create table a (); create table b (); create table c ()' })
    await run()
    await write({ [two]: 'alter table a add column n integer; alter table b add column n integer' })
  })

  test('a migration lets statements pass that wait behind it for a table, and is applied later', async () => {
    const others = [connectOnce(database.connection), connectOnce(database.connection)] as const
    const release = Promise.withResolvers<void>()
    const isHeld = Promise.withResolvers<void>()
    const holding = others[0].begin(async (tx) => {
      await tx`lock table b in row exclusive mode`
      isHeld.resolve()
      await release.promise
    })
    try {
      await isHeld.promise
      const migrating = run()
      await until(async () => {
        const [row] = await others[1]`select from pg_locks where not granted and relation = 'b'::regclass`
        return row !== undefined
      })
      // The migration has locked the one table, and its wait for the other is first in the queue there.
      await others[1]`select from a, b`
      release.resolve()
      expect(await migrating).toEqual([two])
    } finally {
      release.resolve()
      await holding
      await Promise.all(others.map((other) => other.end()))
    }
  })

  test('a migration and a transaction that wait for each other both succeed', async () => {
    const other = connectOnce(database.connection)
    try {
      const holding = other.begin(async (tx) => {
        await tx`lock table b in row exclusive mode`
        const migrating = run()
        await until(async () => {
          const [row] = await tx`select from pg_locks where not granted and relation = 'b'::regclass`
          return row !== undefined
        })
        await tx`lock table a in row exclusive mode`
        return { migrating }
      })
      const { migrating } = await holding
      expect(await migrating).toEqual([two])
    } finally {
      await other.end()
    }
  })
})

test('a start with nothing pending costs three statements', async () => {
  await write({ [one]: 'create table a ()', 'functions/f.sql': answer(1) })
  await run()
  const statements: string[] = []
  const counting = connectOnce(database.connection)
  counting.options.debug = (_connection, text) => void statements.push(text)
  await counting`select 1`
  statements.length = 0
  await run(counting)
  await counting.end()
  expect(statements.length).toBe(3)
})

test('the files of this build apply to an empty database', async () => {
  const applied = await migrate(sql)
  expect(applied[0]).toBe('000001_identity.sql')
  expect(await migrate(sql)).toEqual([])
})
