import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { createEffectiveAccessStore, findAccessDifferences } from '../../src/access/cache/effective-access-store.ts'
import { createLargeWorld } from '../../src/boot/seed/large-world.ts'
import type { SignedIn } from '../../src/boot/seed/signed-in.ts'
import { createUsageStore } from '../../src/limits/usage-store.ts'
import { connectionEnvironment, type Sql } from '../../src/platform/postgres.ts'
import { api, openDatabase, startApp, testSecret } from '../harness.ts'

const script = fileURLToPath(new URL('../../src/boot/seed.ts', import.meta.url))
const size = ['--users', '200', '--teams', '20', '--projects', '100', '--generations', '2000']

let database: Awaited<ReturnType<typeof openDatabase>>
let definitions: Awaited<ReturnType<typeof definitionsOf>>
let folder: string
let tokens: string
let output: string

/** Constraints and indexes. */
const definitionsOf = async (sql: Sql) => {
  const rows = await sql<{ definition: string }[]>`
    select conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) as definition
      from pg_constraint where connamespace = 'public'::regnamespace
    union all
    select pg_get_indexdef(indexrelid) from pg_index where indrelid in (select oid from pg_class where relnamespace = 'public'::regnamespace)
     order by 1`
  return rows.map(({ definition }) => definition)
}

const seed = async (args: readonly string[]): Promise<string> => {
  const env = {
    PATH: process.env['PATH'],
    SECRET: testSecret,
    LOG_LEVEL: 'warn',
    ...connectionEnvironment(database.connection),
  }
  const { stdout, stderr } = await promisify(execFile)(process.execPath, [script, ...args], { env })
  return stdout + stderr
}

beforeAll(async () => {
  database = await openDatabase()
  definitions = await definitionsOf(database.sql)
  folder = await mkdtemp(join(tmpdir(), 'velro-seed-'))
  tokens = join(folder, 'tokens')
  output = await seed([...size, '--tokens', tokens, '--signed-in', '3'])
})
afterAll(async () => {
  await database?.drop()
  await rm(folder, { recursive: true, force: true })
})

describe('a seeded world', () => {
  test('has the rows that were asked for, and each figure is reported', async () => {
    const [counts] = await database.sql`
      select (select count(*)::int from users) as users, (select count(*)::int from teams) as teams,
             (select count(*)::int from projects) as projects, (select count(*)::int from generations) as generations`
    expect(counts).toEqual({ users: 200, teams: 20, projects: 100, generations: 2_000 })
    for (const line of ['users: 200', 'generations: 2,000', 'signed in: 3']) expect(output).toContain(line)
  })

  test('has the rows that triggers would have written: effective access, usage and balances', async () => {
    const { sql } = database
    expect(await findAccessDifferences(sql)).toEqual([])
    const [access] = await sql<{ granted: number; owned: number }[]>`
      select count(*) filter (where not owned)::int as granted, count(*) filter (where owned)::int as owned from project_access`
    expect(access?.owned).toBe(100)
    expect(access?.granted).toBeGreaterThan(100)
    const listed = (await sql`select id, project_id from public_generations order by id`).map((row) => ({ ...row }))
    const expected = await sql`select id, project_id from public_generations_expected order by id`
    expect(listed).toEqual(expected.map((row) => ({ ...row })))
    expect((await createUsageStore(sql).findWrongAfter('00000000-0000-0000-0000-000000000000')).accounts).toEqual([])
    const { count: wrongBalances } = await sql`
      select from credit_balances b
        full join (select user_id, sum(amount) as amount from credit_ledger group by user_id) l using (user_id)
       where b.balance is distinct from l.amount`
    expect(wrongBalances).toBe(0)
  })

  test('leaves every trigger on, and every constraint and index as it was', async () => {
    expect(await createEffectiveAccessStore(database.sql, 0).findDisabledTriggers()).toEqual([])
    expect(await definitionsOf(database.sql)).toEqual(definitions)
  })

  test('has one owner for each team, and ancestors that are in the same project', async () => {
    const { count: teams } = await database.sql`
      select from teams t where (select count(*) from team_members m where m.team_id = t.id and m.role = 'owner') <> 1`
    expect(teams).toBe(0)
    const lineage = await database.sql<{ strays: number; children: number }[]>`
      select count(*)::int as children,
             count(*) filter (where a.project_id is distinct from g.project_id or a.id >= g.id)::int as strays
        from generations g join generations a on a.id = any (g.ancestor_ids)`
    expect(lineage[0]?.children).toBeGreaterThan(100)
    expect(lineage[0]?.strays).toBe(0)
  })

  test('has people who can use the tokens in the file, and sign in by password', async () => {
    const people = (await readFile(tokens, 'utf8'))
      .trimEnd()
      .split('\n')
      .map((line): SignedIn => JSON.parse(line))
    const app = await startApp({ connection: database.connection })
    try {
      const client = api(app.baseUrl)
      for (const { user_id, access_token } of people) {
        const { status, body } = await client.get('/api/v1/auth/me', { token: access_token })
        expect({ status, id: body.id }).toEqual({ status: 200, id: user_id })
      }
      const [first] = people
      const renewed = await client.post('/api/v1/auth/refresh', { refresh_token: first?.refresh_token })
      expect(renewed.status).toBe(200)
      const password = 'correct horse battery'
      const login = await client.post('/api/v1/auth/login', { email: first?.email, password })
      expect(login.status).toBe(200)
    } finally {
      await app.close()
    }
  })
})

test('a database that has accounts is refused, and filled only when the order says so', async () => {
  const refusal = await seed([...size, '--seed', '2']).catch(({ stderr, code }) => ({ stderr, code }))
  expect(refusal).toMatchObject({ code: 1, stderr: expect.stringContaining('--into-existing') })
  await seed([...size, '--seed', '2', '--into-existing'])
  const [counts] = await database.sql`select count(*)::int as users from users`
  expect(counts).toEqual({ users: 400 })
  expect(await findAccessDifferences(database.sql)).toEqual([])
})

test('one seed gives one world, another seed another', () => {
  const rowsOf = (number: number) => {
    const { tables } = createLargeWorld({ users: 20, teams: 3, projects: 10, generations: 100 }, number, 'x')
    return tables.flatMap(({ name, lines }) => [name, ...lines()])
  }
  expect(rowsOf(1)).toEqual(rowsOf(1))
  const first = new Set(rowsOf(1).map((row) => row.slice(0, 36)))
  expect(rowsOf(2).filter((row) => row.length > 36 && first.has(row.slice(0, 36)))).toEqual([])
})

test('a flag with a wrong value is refused with the usage', async () => {
  const refusal = await seed(['--users', 'many']).catch(({ stderr, code }) => ({ stderr, code }))
  expect(refusal).toMatchObject({ code: 1, stderr: expect.stringContaining('--users must be a whole number') })
})
