import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test'
import { createHash } from 'node:crypto'
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { lockKeys } from '../../src/platform/lock-keys.ts'
import { migrate } from '../../src/platform/migrate.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'
import { dumpSchema } from './dump.ts'

const root = fileURLToPath(new URL('../../', import.meta.url))
const directory = join(root, 'sql')
const functionFiles = async () => (await readdir(join(directory, 'functions'))).sort()
const migrationFiles = async () => (await readdir(directory)).filter((name) => /^\d{6}_/.test(name)).sort()
const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')

/** As `cd sql/functions && sha256sum *.sql | sha256sum`. */
const checksumOfFunctions = async () => {
  const lines = (await functionFiles()).map(
    async (name) => `${sha256(await readFile(join(directory, 'functions', name), 'utf8'))}  ${name}\n`,
  )
  return sha256((await Promise.all(lines)).join(''))
}

let database: TestDatabase
let sql: Sql

beforeAll(async () => {
  database = await createDatabase()
  sql = connectOnce(database.connection)
})
afterAll(async () => {
  await sql.end()
  await database.drop()
})

describe('sql/functions', () => {
  test('changes only together with a new migration, whose line "-- functions:" names the checksum of all files', async () => {
    const texts = await Promise.all((await migrationFiles()).map((name) => readFile(join(directory, name), 'utf8')))
    const named = texts.flatMap((text) => /^-- functions: (\S+)$/m.exec(text)?.[1] ?? [])
    expect(named.at(-1)).toBe(await checksumOfFunctions())
  })

  test('depends on no search_path: each function sets its own or has a parsed body', async () => {
    const dependent = await sql`
      select proname from pg_proc
       where pronamespace = 'public'::regnamespace and prosqlbody is null
         and not coalesce(array_to_string(proconfig, ' ') like '%search_path=%', false)`
    expect([...dependent]).toEqual([])
  })

  test('defines every function and view of the schema', async () => {
    const texts = await Promise.all(
      (await functionFiles()).map((name) => readFile(join(directory, 'functions', name), 'utf8')),
    )
    const defined = new Set(
      texts.flatMap((text) =>
        [...text.matchAll(/^create (?:or replace (?:function|view)|materialized view) (\w+)/gm)].map(
          ([, name]) => name,
        ),
      ),
    )
    const present = await sql<{ name: string }[]>`
      select proname as name from pg_proc where pronamespace = 'public'::regnamespace
      union
      select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('v', 'm')`
    expect([...defined].sort()).toEqual(present.map(({ name }) => name).sort())
  })

  test('applied a second time changes nothing', async () => {
    const before = await dumpSchema(sql)
    for (const name of await functionFiles()) {
      await sql.unsafe(await readFile(join(directory, 'functions', name), 'utf8'))
    }
    expect(await dumpSchema(sql)).toBe(before)
  })
})

describe('a database whose functions came from the numbered migrations', () => {
  let folder: string
  let old: TestDatabase
  let onOld: Sql

  afterEach(async () => {
    await onOld.end()
    await old.drop()
    await rm(folder, { recursive: true })
  })

  test('gets the same schema as an empty one, and keeps its rows', async () => {
    old = await createDatabase({ migrated: false })
    onOld = connectOnce(old.connection)
    folder = await mkdtemp(join(tmpdir(), 'velro-migrations-'))
    await mkdir(join(folder, 'functions'))
    const names = (await migrationFiles()).filter((name) => name < '000021')
    for (const name of names) await copyFile(join(directory, name), join(folder, name))
    await migrate(onOld, pathToFileURL(`${folder}/`))
    await onOld`insert into flags (name, enabled) values ('l2', false)`
    const applied = await migrate(onOld)
    expect(applied[0]).toBe('000021_function_files.sql')
    expect(applied.slice(-(await functionFiles()).length)).toEqual(
      (await functionFiles()).map((name) => `functions/${name}`),
    )
    expect(await migrate(onOld)).toEqual([])
    expect(await dumpSchema(onOld)).toBe(await dumpSchema(sql))
    expect([...(await onOld`select name, enabled from flags`)]).toEqual([{ name: 'l2', enabled: false }])
  })
})

describe('a limit or a lock key', () => {
  const sourceFiles = async () => {
    const names = (await readdir(join(root, 'src'), { recursive: true })).filter((name) => name.endsWith('.ts'))
    return [
      ...names.map((name) => join(root, 'src', name)),
      ...(await functionFiles()).map((name) => join(directory, 'functions', name)),
    ]
  }

  test('of the SQL functions is folded into its value by the planner', async () => {
    const [plan] = await sql<{ 'QUERY PLAN': string }[]>`
      explain (verbose, costs off)
      select max_keys_per_event(), max_notified_keys_length(), max_setting_length(), max_hottest_pairs()`
    const [, output] = await sql<{ 'QUERY PLAN': string }[]>`
      explain (verbose, costs off)
      select max_keys_per_event(), max_notified_keys_length(), max_setting_length(), max_hottest_pairs()`
    expect(plan?.['QUERY PLAN']).toBe('Result')
    expect(output?.['QUERY PLAN'].trim()).toBe('Output: 20000, 7800, 8192, 5000')
  })

  test('stands in constants.sql and in no other function file', async () => {
    for (const name of (await functionFiles()).filter((each) => each !== 'constants.sql')) {
      const text = await readFile(join(directory, 'functions', name), 'utf8')
      const statements = text.replaceAll(/--.*$/gm, '').replaceAll(/comment on [^;]*;/g, '')
      const numbers = [...statements.matchAll(/\b\d{4,}\b/g)].map(([number]) => number)
      expect([name, numbers]).toEqual([name, name === 'access-heat.sql' ? ['3600'] : []])
    }
  })

  test('of an advisory lock is named in the register, is unique, and is the same in SQL and TypeScript', async () => {
    const [row] = await sql<{ access: string; usage: string; key: string; mode: string }[]>`
      select user_access_lock_seed() as access, usage_lock_seed() as usage, service_key_lock_seed() as key,
             mode_lock_key() as mode`
    const { userAccessSeed, usageSeed, serviceKeySeed, mode } = lockKeys
    expect([row?.access, row?.usage, row?.key, row?.mode].map(Number)).toEqual([
      userAccessSeed,
      usageSeed,
      serviceKeySeed,
      mode,
    ])
    const keys = Object.values(lockKeys)
    expect(new Set(keys).size).toBe(keys.length)
    const calls: string[] = []
    for (const file of await sourceFiles()) {
      const text = await readFile(file, 'utf8')
      for (const [call = ''] of text.matchAll(/pg_(?:try_)?advisory\w*\(.*$/gm)) calls.push(call)
    }
    expect(calls.length).toBeGreaterThanOrEqual(4)
    expect(
      calls.filter(
        (call) => !/lockKeys\.\w+|(?:user_access|usage|service_key)_lock_seed\(\)|mode_lock_key\(\)/.test(call),
      ),
    ).toEqual([])
  })
})
