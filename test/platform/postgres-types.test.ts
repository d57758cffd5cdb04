import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { Buffer } from 'node:buffer'
import fc from 'fast-check'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

describe('values that the driver sends and reads without asking the server for its types', () => {
  let database: TestDatabase
  let sql: Sql
  beforeAll(async () => {
    database = await createDatabase({ migrated: false })
    sql = connectOnce(database.connection)
  })
  afterAll(async () => {
    await sql.end()
    await database.drop()
  })

  const texts = fc.array(
    fc.option(
      fc.string({
        unit: fc
          .oneof(fc.constantFrom('"', '\\', ',', '{', '}', ' ', 'NULL', 'ü', '\n'), fc.string())
          .filter((text) => !text.includes('\0')),
      }),
      { nil: null },
    ),
  )

  test('a list of texts comes back as it was sent, whatever characters it has', async () => {
    await fc.assert(
      fc.asyncProperty(texts, async (list) => {
        const [row] =
          await sql`select ${list as string[]}::text[] as list, cardinality(${list as string[]}::text[]) as length`
        expect({ ...row }).toEqual({ list, length: list.length })
      }),
      { numRuns: 60 },
    )
  })

  test('lists of each type that the schema has are read as values of that type', async () => {
    const [row] = await sql`
      select ${['7e57d004-2b97-4e7a-b45f-5387367791cd', null]}::uuid[] as uuids, ${[1, -2]}::int[] as integers,
             ${['9007199254740993']}::bigint[] as bigints, ${[0.5, 1e300]}::float8[] as floats,
             ${[]}::text[] as nothing, array[true, false, null] as booleans, array['a']::name[] as names`
    expect({ ...row }).toEqual({
      uuids: ['7e57d004-2b97-4e7a-b45f-5387367791cd', null],
      integers: [1, -2],
      bigints: ['9007199254740993'],
      floats: [0.5, 1e300],
      nothing: [],
      booleans: [true, false, null],
      names: ['a'],
    })
  })

  test('every array type of a column and of a function is one that the driver knows', async () => {
    const migrated = await createDatabase()
    const own = connectOnce(migrated.connection)
    const used = await own<{ oid: number }[]>`
      select distinct t.oid::int from pg_type t
       where t.typcategory = 'A'
         and (t.oid in (select atttypid from pg_attribute a join pg_class c on c.oid = a.attrelid
                         where c.relnamespace = 'public'::regnamespace and a.attnum > 0)
           or t.oid in (select unnest(array[prorettype] || proargtypes::oid[] || coalesce(proallargtypes, '{}'))
                          from pg_proc where pronamespace = 'public'::regnamespace))`
    const known = used.filter(({ oid }) => oid in own.options.parsers)
    expect(used.length).toBeGreaterThan(1)
    expect(known).toEqual([...used])
    await own.end()
    await migrated.drop()
  })

  for (const format of ['hex', 'escape']) {
    test(`bytes come back as they were sent with bytea_output = ${format}`, async () => {
      await sql`select set_config('bytea_output', ${format}, false)`
      const every = Uint8Array.from({ length: 256 }, (_, byte) => byte)
      for (const bytes of [every, Buffer.from('\\x41', 'latin1'), Buffer.from('\\\\101'), Buffer.alloc(0)]) {
        const [row] = await sql<{ bytes: Uint8Array }[]>`select ${Buffer.from(bytes)}::bytea as bytes`
        expect(Buffer.from(row?.bytes ?? []).equals(Buffer.from(bytes))).toBe(true)
      }
      await sql`reset bytea_output`
    })
  }
})
