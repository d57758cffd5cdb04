import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import type { FactDefinition } from '../../src/access/policy/facts/definition.ts'
import { definitionOf, factKinds } from '../../src/access/policy/facts/registry.ts'
import { connectOnce, type Sql, type TransactionSql } from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

type Trigger = {
  readonly table: string
  readonly onInsert: boolean
  readonly onUpdate: boolean
  readonly onDelete: boolean
  readonly onTruncate: boolean
  /** As `CREATE TRIGGER`, with the arguments of the function. */
  readonly definition: string
  readonly body: string
}

let database: TestDatabase
let sql: Sql
let triggers: Trigger[]
let columns: Map<string, string[]>

const readTriggers = async (tx: TransactionSql): Promise<Trigger[]> => [
  ...(await tx<Trigger[]>`
    select t.tgrelid::regclass::text as "table", t.tgtype & 4 > 0 as "onInsert",
           t.tgtype & 16 > 0 as "onUpdate", t.tgtype & 8 > 0 as "onDelete",
           t.tgtype & 32 > 0 as "onTruncate", pg_get_triggerdef(t.oid) as definition, p.prosrc as body
      from pg_trigger t join pg_proc p on p.oid = t.tgfoid
     where not t.tgisinternal and t.tgenabled in ('O', 'A') and cardinality(t.tgattr::int2[]) = 0`),
]

beforeAll(async () => {
  database = await createDatabase()
  sql = connectOnce(database.connection)
  triggers = await sql.begin(readTriggers)
  const rows = await sql<{ table: string; columns: string[] }[]>`
    select attrelid::regclass::text as "table", array_agg(attname::text) as columns
      from pg_attribute join pg_class c on c.oid = attrelid
     where attnum > 0 and not attisdropped and c.relkind = 'r' and c.relnamespace = 'public'::regnamespace
     group by attrelid`
  columns = new Map(rows.map(({ table, columns }) => [table, columns]))
})
afterAll(async () => {
  await sql.end()
  await database.drop()
})

/** The kind in whose name a change is announced: of a whole, the parts are. */
const announcedAs = ({ kind }: FactDefinition): string =>
  factKinds.find((part) => definitionOf(part).part?.whole.kind === kind) ?? kind

const invalidates = ({ definition, body }: Trigger, kind: string): boolean =>
  body.includes(`'${kind}:'`) || (body.includes('tg_argv[0]') && definition.endsWith(`('${kind}')`))

/** The columns that a function compares; undefined where it compares none, and announces every change of the row. */
const comparedColumns = ({ body }: Trigger): string[] | undefined => {
  const compared = /where \(([^;]*?)\)\s*is distinct from/.exec(body)?.[1]
  if (compared === undefined) return undefined
  return [...new Set([...compared.matchAll(/\ba\.(\w+)/g)].map(([, column]) => column ?? ''))]
}

/**
 * Whether a fact can be requested before its row exists, because it has the id of another row. Its absence is cached, so
 * an insert must invalidate it. Other ids are random, so no request can have named them before.
 */
const sharesIds = ({ kind }: FactDefinition): boolean =>
  factKinds
    .map(definitionOf)
    .some(({ needs = [] }) => needs.some((need) => need.definition.kind === kind && need.sharesId))

/** The differences between a kind's definition and its triggers, one line each. */
const findDrift = (definition: FactDefinition, present: readonly Trigger[]): string[] => {
  const { kind, table } = definition
  const own = present.filter((trigger) => trigger.table === table)
  const announcing = own.filter((trigger) => invalidates(trigger, announcedAs(definition)))
  const onUpdate = announcing.filter((trigger) => trigger.onUpdate)
  const compared = onUpdate.flatMap((trigger) => comparedColumns(trigger) ?? [])
  const announcesAll = onUpdate.some((trigger) => comparedColumns(trigger) === undefined)
  const watched = announcesAll ? (columns.get(table) ?? []) : compared
  const declared: readonly string[] = definition.columns
  return [
    ...declared.filter((column) => !watched.includes(column)).map((column) => `${kind}: ${column} is not watched`),
    ...compared.filter((column) => !declared.includes(column)).map((column) => `${kind}: ${column} is not declared`),
    ...(!sharesIds(definition) || announcing.some(({ onInsert }) => onInsert)
      ? []
      : [`${kind}: an insert is not announced`]),
    ...(announcing.some(({ onDelete }) => onDelete) ? [] : [`${kind}: a deletion is not announced`]),
    ...(own.some(({ onTruncate, body }) => onTruncate && body.includes("'*"))
      ? []
      : [`${kind}: TRUNCATE is not announced`]),
  ]
}

describe('the declaration of a fact kind', () => {
  for (const kind of factKinds) {
    const definition = definitionOf(kind)

    test(`${kind} is registered under its own name`, () => expect<string>(definition.kind).toBe(kind))

    test(`${kind} names the columns that the triggers of its table watch`, () => {
      expect(findDrift(definition, triggers)).toEqual([])
    })

    test(`${kind} is read from its id and its declared columns only, and from each of them`, () => {
      const { row } = definition
      if (row === undefined) return
      const expressions = [
        ...Object.values(row.select),
        ...(row.references ?? []).map(({ column }) => `${row.alias}.${column}`),
        row.join ?? '',
      ].join(' ')
      const read = [...expressions.matchAll(new RegExp(`\\b${row.alias}\\.(\\w+)`, 'g'))].map(([, column]) => column)
      expect([...new Set(read)].filter((column) => column !== 'id').sort()).toEqual([...definition.columns].sort())
    })
  }

  test('has triggers for every kind of key that the database announces, and the other way round', () => {
    const announced = triggers.flatMap(({ body }) => [...body.matchAll(/'(\w+):'/g)].map(([, kind]) => kind))
    const byArgument = triggers.flatMap(({ body, definition }) =>
      body.includes('tg_argv[0]') ? [...definition.matchAll(/\('(\w+)'\)$/g)].map(([, kind]) => kind) : [],
    )
    const expected = new Set(factKinds.map((kind) => announcedAs(definitionOf(kind))))
    expect(new Set([...announced, ...byArgument].filter((kind) => kind !== 'flag'))).toEqual(expected)
  })
})

describe('the comparison of declarations with triggers', () => {
  const drifts: Readonly<Record<string, (tx: TransactionSql) => Promise<unknown>>> = {
    'a column that a trigger no longer compares': async (tx) => {
      const [row] = await tx<{ text: string }[]>`
        select pg_get_functiondef(tgfoid) as text from pg_trigger
         where tgrelid = 'projects'::regclass and tgtype & 16 > 0 and pg_get_functiondef(tgfoid) like '%''project:''%'`
      await tx.unsafe(String(row?.text).replace(', a.visibility', '').replace(', b.visibility', ''))
    },
    'a trigger that is disabled': (tx) => tx`alter table projects disable trigger user`,
  }

  for (const [drift, change] of Object.entries(drifts)) {
    test(`finds ${drift}`, async () => {
      const rollback = new Error('rolled back')
      let found: string[] = []
      const changed = sql.begin(async (tx) => {
        await change(tx)
        found = findDrift(definitionOf('project'), await readTriggers(tx))
        throw rollback
      })
      await expect(changed).rejects.toBe(rollback)
      expect(found).toContain('project: visibility is not watched')
    })
  }
})
