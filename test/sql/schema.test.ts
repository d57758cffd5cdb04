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

test('the migrations result in the reviewed schema, sql/schema.sql', async () => {
  const dump = await dumpSchema(sql)
  if (process.env['UPDATE_SCHEMA'] === '1') await writeFile(file, dump)
  expect(await readFile(file, 'utf8')).toBe(dump)
})

describe('in the schema', () => {
  test('every constraint is named <table>__<rule>', async () => {
    const rows = await sql<{ table: string; name: string }[]>`
      select c.relname as "table", k.conname as name
        from pg_constraint k join pg_class c on c.oid = k.conrelid
       where k.connamespace = 'public'::regnamespace and k.contype in ('u', 'c', 'x')`
    expect(rows.length).toBeGreaterThan(0)
    expect(rows.filter(({ table, name }) => !name.startsWith(`${table}__`))).toEqual([])
  })

  /** References to users, whose rows are never deleted. */
  const withoutIndex = [
    'blocks_created_by_fkey',
    'credit_ledger_created_by_fkey',
    'feature_flag_versions_changed_by_fkey',
    'feature_flags_updated_by_fkey',
    'flags_updated_by_fkey',
    'incidents_closed_by_fkey',
    'incidents_opened_by_fkey',
    'project_grants_granted_by_fkey',
    'restrictions_set_by_fkey',
    'service_keys_created_by_fkey',
    'sessions_user_id_fkey',
    'share_links_created_by_fkey',
    'team_invitations_invited_by_fkey',
    'webhooks_responsible_id_fkey',
  ]

  test('every foreign key whose target can be deleted has an index, so that a deletion does not scan the table', async () => {
    const rows = await sql<{ name: string }[]>`
      select k.conname as name
        from pg_constraint k
       where k.contype = 'f' and k.connamespace = 'public'::regnamespace
         and not exists (
           select from pg_index i
            where i.indrelid = k.conrelid and (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey
              and (i.indpred is null or pg_get_expr(i.indpred, i.indrelid) like '(% IS NOT NULL)'))
       order by k.conname`
    expect(rows.map(({ name }) => name)).toEqual(withoutIndex)
  })

  test('every timestamp has a time zone, and every table a primary key', async () => {
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

  test('every table, view and function has a comment', async () => {
    const uncommented = await sql<{ name: string }[]>`
      select relname as name from pg_class c
       where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm') and not relispartition
         and obj_description(oid, 'pg_class') is null
      union all
      select proname from pg_proc
       where pronamespace = 'public'::regnamespace and obj_description(oid, 'pg_proc') is null`
    expect(uncommented.map(({ name }) => name)).toEqual([])
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
    'a comment on a table': "comment on table users is 'people'",
    'a comment on a column': "comment on column users.plan is 'plan'",
    'a comment on an index': "comment on index users__status is 'index'",
    'a comment on a view': "comment on view access_heat_alive is 'view'",
    'a comment on a function': "comment on function touched_facts() is 'function'",
  }

  for (const [part, change] of Object.entries(changes)) {
    test(`shows ${part}`, async () => {
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
