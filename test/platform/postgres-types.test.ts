import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { Buffer } from 'node:buffer'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { connectOnce } from '../../src/platform/postgres.ts'
import { createDatabase, openDatabase } from '../harness.ts'

const root = fileURLToPath(new URL('../../src/', import.meta.url))

describe('values that the driver sends and reads without asking the server for its types', () => {
  let database: Awaited<ReturnType<typeof openDatabase>>
  beforeAll(async () => {
    database = await openDatabase({ migrated: false })
  })
  afterAll(() => database.drop())

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

  test('a list of texts comes back as it was sent, quotes, backslashes and braces included', async () => {
    await fc.assert(
      fc.asyncProperty(texts, async (list) => {
        const [row] =
          await database.sql`select ${list as string[]}::text[] as list, cardinality(${list as string[]}::text[]) as length`
        expect({ ...row }).toEqual({ list, length: list.length })
      }),
      { numRuns: 60 },
    )
  })

  test('lists of each type that the schema has are read as values of that type', async () => {
    const [row] = await database.sql`
      select ${['7e57d004-2b97-4e7a-b45f-5387367791cd', null]}::uuid[] as uuids, ${[1, -2]}::int[] as integers,
             ${['9007199254740993']}::bigint[] as bigints, ${[0.5, 1e300]}::float8[] as floats,
             ${[0.25, 0]}::real[] as reals,
             ${[]}::text[] as nothing, array[true, false, null] as booleans, array['a']::name[] as names`
    expect({ ...row }).toEqual({
      uuids: ['7e57d004-2b97-4e7a-b45f-5387367791cd', null],
      integers: [1, -2],
      bigints: ['9007199254740993'],
      floats: [0.5, 1e300],
      reals: [0.25, 0],
      nothing: [],
      booleans: [true, false, null],
      names: ['a'],
    })
  })

  test('every array type in the schema, in functions and in statements is one that the driver knows', async () => {
    const migrated = await createDatabase()
    const own = connectOnce(migrated.connection)
    const source = new Bun.Glob('**/*.ts').scanSync(root)
    const casts = [...source].flatMap((path) => [...readFileSync(join(root, path), 'utf8').matchAll(/::(\w+)\[\]/g)])
    const names = [...new Set(casts.map(([, name]) => `${name}[]`))]
    const used = await own<{ oid: number; name: string }[]>`
      select distinct t.oid::int as oid, t.oid::regtype::text as name from pg_type t
       where t.typcategory = 'A'
         and (t.oid in (select atttypid from pg_attribute a join pg_class c on c.oid = a.attrelid
                         where c.relnamespace = 'public'::regnamespace and a.attnum > 0)
           or t.oid in (select unnest(array[prorettype] || proargtypes::oid[] || coalesce(proallargtypes, '{}'))
                          from pg_proc where pronamespace = 'public'::regnamespace)
           or t.oid in (select name::regtype from unnest(${names}::text[]) as name))`
    expect(used.length).toBeGreaterThan(4)
    expect(used.filter(({ oid }) => !(oid in own.options.parsers))).toEqual([])
    await own.end()
    await migrated.drop()
  })

  for (const format of ['hex', 'escape']) {
    test(`bytes come back as they were sent with bytea_output = ${format}`, async () => {
      await database.sql`select set_config('bytea_output', ${format}, false)`
      const every = Uint8Array.from({ length: 256 }, (_, byte) => byte)
      for (const bytes of [every, Buffer.from('\\x41', 'latin1'), Buffer.from('\\\\101'), Buffer.alloc(0)]) {
        const [row] = await database.sql<{ bytes: Uint8Array }[]>`select ${Buffer.from(bytes)}::bytea as bytes`
        expect(Buffer.from(row?.bytes ?? []).equals(Buffer.from(bytes))).toBe(true)
      }
      await database.sql`reset bytea_output`
    })
  }
})
