import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { readFile, writeFile } from 'node:fs/promises'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'
import { dumpSchema } from './dump.ts'

const file = new URL('../../sql/schema.sql', import.meta.url)

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

test('the migrations leave the schema that was reviewed', async () => {
  const dump = await dumpSchema(sql)
  if (process.env['UPDATE_SCHEMA'] === '1') await writeFile(file, dump)
  expect(await readFile(file, 'utf8')).toBe(dump)
})

describe('the house rules', () => {
  test('every constraint of a table is named after it: <table>__<what>', async () => {
    const rows = await sql<{ table: string; name: string }[]>`
      select c.relname as "table", k.conname as name
        from pg_constraint k join pg_class c on c.oid = k.conrelid
       where k.connamespace = 'public'::regnamespace and k.contype in ('u', 'c', 'x')`
    expect(rows.length).toBeGreaterThan(0)
    expect(rows.filter(({ table, name }) => !name.startsWith(`${table}__`))).toEqual([])
  })

  /** Rows of users are never deleted, only emptied. */
  const neverLookedUp = [
    'credit_ledger_created_by_fkey',
    'flags_updated_by_fkey',
    'project_grants_granted_by_fkey',
    'service_keys_created_by_fkey',
    'sessions_user_id_fkey',
    'share_links_created_by_fkey',
    'team_invitations_invited_by_fkey',
  ]

  test('every foreign key has an index that finds its rows, or deleting what it points to reads the table', async () => {
    const rows = await sql<{ name: string }[]>`
      select k.conname as name
        from pg_constraint k
       where k.contype = 'f' and k.connamespace = 'public'::regnamespace
         and not exists (
           select from pg_index i
            where i.indrelid = k.conrelid and (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey
              and (i.indpred is null or pg_get_expr(i.indpred, i.indrelid) like '(% IS NOT NULL)'))
       order by k.conname`
    expect(rows.map(({ name }) => name)).toEqual(neverLookedUp)
  })

  test('every time has a zone, and every table a primary key', async () => {
    const zoneless = await sql`
      select table_name, column_name from information_schema.columns
       where table_schema = 'public' and data_type = 'timestamp without time zone'`
    expect([...zoneless]).toEqual([])
    const keyless = await sql`
      select relname from pg_class c
       where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')
         and not exists (select from pg_constraint where conrelid = c.oid and contype = 'p')`
    expect([...keyless]).toEqual([])
  })
})

describe('the dump', () => {
  const changes = {
    'a column': 'alter table users add column shoe_size int',
    'a default': "alter table users alter column plan set default 'pro'",
    'a not null': 'alter table sessions alter column address drop not null',
    'a type': 'alter table projects alter column name type varchar(200)',
    'a constraint': 'alter table users drop constraint users__role',
    'an index': 'create index users__plan_index on users (plan)',
    'a function': 'create function f() returns int language sql as $$ select 1 $$',
    'a trigger': `create function g() returns trigger language plpgsql as $$ begin return new; end $$;
                  create trigger g before update on users for each row execute function g()`,
    'a view': 'create view v as select id from users',
    'a materialized view': 'create materialized view m as select id from users',
    'an index of a materialized view': 'create materialized view m2 as select id from users; create index i on m2 (id)',
    'a generated column': 'alter table users add column twice text generated always as (plan || plan) stored',
    'an enum': "create type mood as enum ('sad', 'happy')",
    'a sequence': 'create sequence s',
    'a partitioned table': 'create table p (id int, at timestamptz) partition by range (at)',
    'a storage parameter': 'alter table users set (fillfactor = 80)',
  }

  for (const [what, change] of Object.entries(changes)) {
    test(`shows ${what}`, async () => {
      const rolledBack = new Error('rolled back')
      const before = await dumpSchema(sql)
      let after = before
      const transaction = sql.begin(async (tx) => {
        await tx.unsafe(change)
        after = await dumpSchema(tx)
        throw rolledBack
      })
      expect(await transaction.catch((error: unknown) => error)).toBe(rolledBack)
      expect(after).not.toBe(before)
    })
  }
})
