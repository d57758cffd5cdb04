import { afterEach, beforeEach, describe, expect, test } from 'bun:test'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { MigrationRefused, migrate } from '../../src/platform/migrate.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

let database: TestDatabase
let sql: Sql
let folder: string

beforeEach(async () => {
  database = await createDatabase({ migrated: false })
  sql = connectOnce(database.connection)
  folder = await mkdtemp(join(tmpdir(), 'velro-migrations-'))
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

/** Everything there is in the database of ours: tables and what is known about migrations. */
const stateOf = async () => {
  const tables = await sql<{ name: string }[]>`
    select relname as name from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' order by 1`
  const names = tables.map(({ name }) => name)
  const applied = names.includes('schema_migrations')
    ? await sql`select version, name, checksum, applied_at from schema_migrations order by version`
    : []
  return { tables: names, applied: [...applied] }
}

test('a fresh database gets every file, in order, once', async () => {
  await write({
    [two]: 'create table b (a_id integer references a (id)); insert into a values (2);',
    [one]: 'create table a (id integer primary key);\ninsert into a values (1);',
    'README.md': 'not a migration',
    'schema.sql': 'syntax error',
  })
  expect(await run()).toEqual([one, two])
  expect(await run()).toEqual([])
  const { tables, applied } = await stateOf()
  expect(tables).toEqual(['a', 'b', 'schema_migrations'])
  expect(applied).toMatchObject([
    { version: 1, name: one },
    { version: 2, name: two },
  ])
  expect((await sql`select id from a order by id`).map(({ id }) => id)).toEqual([1, 2])
})

test('a database that is behind gets what it lacks', async () => {
  await write({ [one]: 'create table a ()' })
  await run()
  await write({ [two]: 'create table b ()' })
  expect(await run()).toEqual([two])
  expect((await stateOf()).tables).toEqual(['a', 'b', 'schema_migrations'])
})

test('of many instances that start at once one applies the files, and the others find it done', async () => {
  await write({ [one]: 'create table a (); select pg_sleep(0.05)', [two]: 'create table b ()' })
  const others = Array.from({ length: 5 }, () => connectOnce(database.connection))
  try {
    const results = await Promise.all([sql, ...others].map(run))
    expect(results.filter((applied) => applied.length > 0)).toEqual([[one, two]])
    expect((await stateOf()).applied.length).toBe(2)
  } finally {
    await Promise.all(others.map((other) => other.end()))
  }
})

describe('nothing is changed', () => {
  test('when a file was edited after it was applied', async () => {
    await write({ [one]: 'create table a ()' })
    await run()
    const before = await stateOf()
    await write({ [one]: 'create table a (); -- a note', [two]: 'create table b ()' })
    const refusal = await refusalOf(run())
    expect(refusal).toBeInstanceOf(MigrationRefused)
    expect(String(refusal)).toContain(one)
    expect(await stateOf()).toEqual(before)
  })

  test('when one of several files fails, the good ones before it included', async () => {
    await write({ [one]: 'create table a ()', [two]: 'create table b (); create table a ()' })
    expect(await refusalOf(run())).toMatchObject({ code: '42P07' })
    expect(await stateOf()).toEqual({ tables: [], applied: [] })
    await write({ [two]: 'create table b ()' })
    expect(await run()).toEqual([one, two])
  })

  test('when a number is missing or used twice', async () => {
    for (const files of [
      { [two]: 'create table b ()' },
      { [one]: 'create table a ()', [three]: 'create table c ()' },
      { [one]: 'create table a ()', '000001_other.sql': 'create table b ()' },
    ]) {
      await rm(folder, { recursive: true })
      folder = await mkdtemp(join(tmpdir(), 'velro-migrations-'))
      await write(files)
      expect(await refusalOf(run())).toBeInstanceOf(MigrationRefused)
      expect(await stateOf()).toEqual({ tables: [], applied: [] })
    }
  })

  test('when the database is ahead of the files, as during a roll-back', async () => {
    await write({ [one]: 'create table a ()', [two]: 'create table b ()', [three]: 'create table c ()' })
    await run()
    const before = await stateOf()
    await rm(join(folder, two))
    await rm(join(folder, three))
    expect(await run()).toEqual([])
    expect(await stateOf()).toEqual(before)
  })

  test('and two statements are enough, when nothing is pending', async () => {
    await write({ [one]: 'create table a ()' })
    await run()
    const statements: string[] = []
    const counting = connectOnce(database.connection)
    counting.options.debug = (_connection, text) => void statements.push(text)
    await counting`select 1`
    statements.length = 0
    await run(counting)
    await counting.end()
    expect(statements.length).toBe(2)
  })
})

test('the files of this product apply to an empty database', async () => {
  const applied = await migrate(sql)
  expect(applied[0]).toBe('000001_identity.sql')
  expect(await migrate(sql)).toEqual([])
})
