import { afterAll, beforeAll, expect, test } from 'bun:test'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { sealedColumns } from '../../src/secrets/store.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

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

test('every column of sealed values is sealed again when SECRET changes', async () => {
  const columns = await sql<{ name: string; type: string }[]>`
    select c.relname || '.' || a.attname as name, format_type(a.atttypid, null) as type
      from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
     where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and a.atttypid = 'bytea'::regtype
       and (a.attname like 'sealed\\_%' or col_description(c.oid, a.attnum) ~* '\\ysealed\\y')
     order by 1`
  expect(columns.map(({ type }) => type)).toEqual(columns.map(() => 'bytea'))
  expect(columns.map(({ name }) => name)).toEqual(sealedColumns.map(({ table, column }) => `${table}.${column}`).sort())
})

test('the key of every column of sealed values is the primary key of its table', async () => {
  for (const { table, key, keyType } of sealedColumns) {
    const [primary] = await sql<{ key: string; type: string }[]>`
      select a.attname as key, format_type(a.atttypid, null) as type
        from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
       where i.indrelid = ${table}::regclass and i.indisprimary`
    expect([table, primary?.key, primary?.type]).toEqual([table, key, keyType])
  }
})
