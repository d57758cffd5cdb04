import type { Queryable } from '../../platform/postgres.ts'
import type { FactDefinition, RowSource, ValueSource } from '../policy/facts/definition.ts'
import { type GrantsFact, maxGrants as usualMaxGrants } from '../policy/facts/grants.ts'
import type { FactQuery } from '../policy/facts/queries.ts'
import {
  definitionOf,
  type Fact,
  type FactKey,
  type FactKind,
  factKey,
  factKinds,
  partId,
} from '../policy/facts/registry.ts'

/** What Postgres answered: a fact, or null where the row does not exist. */
export type LoadedFacts = ReadonlyMap<FactKey, Fact[FactKind] | null>

type ValueDefinition = FactDefinition & { readonly value: ValueSource<unknown> }

const isValueDefinition = (definition: FactDefinition): definition is ValueDefinition => definition.value !== undefined
const valueDefinitions = factKinds.map(definitionOf).filter(isValueDefinition)
const hasValue = ({ kind }: Pick<FactQuery, 'kind'>): boolean => definitionOf(kind).value !== undefined

type RowDefinition = FactDefinition & { readonly row: RowSource<unknown> }

const isRowDefinition = (definition: FactDefinition): definition is RowDefinition => definition.row !== undefined
const rowDefinitions = factKinds.map(definitionOf).filter(isRowDefinition)

const referrersOf = ({ kind }: FactDefinition): { readonly referrer: RowDefinition; readonly column: string }[] =>
  rowDefinitions.flatMap((referrer) =>
    (referrer.row.references ?? []).flatMap(({ definition, column }) =>
      definition.kind === kind ? [{ referrer, column: `${referrer.row.alias}.${column}` }] : [],
    ),
  )

/** Kinds a query may have for its load to join the table of a definition. */
const kindsReaching = (definition: FactDefinition): string[] => [
  definition.kind,
  ...factKinds.filter((kind) => definitionOf(kind).part?.namedBy === definition.kind),
  ...referrersOf(definition).flatMap(({ referrer }) => kindsReaching(referrer)),
]

/** Referrers first, because a join refers to the table it follows. */
const inJoinOrder = (definitions: readonly RowDefinition[]): RowDefinition[] => [
  ...new Set(
    definitions.flatMap((definition) => [
      ...inJoinOrder(referrersOf(definition).map(({ referrer }) => referrer)),
      definition,
    ]),
  ),
]

type IdColumn = `${FactKind}_id`
const idColumnOf = (kind: string): IdColumn => `${kind as FactKind}_id`
const listOf = (kinds: readonly string[]): string => kinds.map((kind) => `'${kind}'`).join(', ')

const joinOf = (definition: RowDefinition): string => {
  const { table, row } = definition
  const referrers = referrersOf(definition)
  const referenced = referrers.map(
    ({ referrer, column }) => `when w.kind in (${listOf(kindsReaching(referrer))}) then ${column}`,
  )
  const named = kindsReaching(definition).filter(
    (kind) => !referrers.some(({ referrer }) => kindsReaching(referrer).includes(kind)),
  )
  const id = `case ${referenced.join(' ')} when w.kind in (${listOf(named)}) then w.id end`
  return `left join ${table} ${row.alias} on ${row.alias}.id = ${id} ${row.join ?? ''}`
}

const valueColumn = `case w.kind ${valueDefinitions.map(({ kind, value }) => `when '${kind}' then ${value.select}`).join(' ')} end`

const columnsOf = ({ kind, row }: RowDefinition): string[] => [
  `${row.alias}.id as ${idColumnOf(kind)}`,
  ...Object.entries(row.select).map(([name, expression]) => `${expression} as ${name}`),
]

/**
 * Answers any number of queries in one statement. With a row it reads the rows that the row references: with a session its
 * account, with media their generation, with a generation its project.
 *
 * For a user it reads all grants, up to one more than fit into a fact; for a user with more it looks up the grant on each
 * queried project instead. That lookup is a subquery, because for a join a planner may search by project alone and read the
 * grants of every user on it.
 *
 * Costs: each row is found by its primary key, and the grants of a user by an index of grants alone. Locks nothing.
 *
 * `values` adds facts that are made of any number of rows. Decisions need none of them.
 *
 * Parameters: 1 kinds, 2 ids, 3 users, 4 users whose grants are read, 5 the most grants in one fact.
 */
const statementOver = (access: 'project_access' | 'project_access_expected', values: boolean): string => `
  with people as materialized (
    select person.id, a.many, a.grants
      from unnest($4::uuid[]) as person (id)
     cross join lateral (
       select count(*) > $5::int as many, coalesce(json_object_agg(project_id, actions), '{}') as grants
         from (select project_id, actions from ${access} a
                where a.user_id = person.id and not a.owned limit $5::int + 1) a
     ) a
  )
  select w.kind, w.id, w.user_id,
         ${rowDefinitions.flatMap(columnsOf).join(', ')},
         case when w.kind = 'grant' or w.user_id in (select id from people where many) then
           (select a.actions from ${access} a where a.user_id = w.user_id and a.project_id = p.id)
         end as grant_actions,
         case when w.place = 1 then
           (select json_object_agg(id, case when not many then grants end) from people)
         end as grants${values ? `, ${valueColumn} as value` : ''}
    from unnest($1::text[], $2::uuid[], $3::uuid[]) with ordinality as w (kind, id, user_id, place)
    ${inJoinOrder(rowDefinitions).map(joinOf).join('\n    ')}`

/** `effective` reads the rows that triggers maintain, `expected` the base tables. Constant texts, so each has one plan. */
const statements = {
  effective: statementOver('project_access', false),
  expected: statementOver('project_access_expected', false),
  effectiveWithValues: statementOver('project_access', true),
  expectedWithValues: statementOver('project_access_expected', true),
} as const

type Row = { readonly [K in IdColumn]?: string | null } & {
  readonly kind: FactKind
  readonly id: string
  readonly user_id: string | null
  readonly grant_actions: number | null
  /** In the first row: each user's grants; null for a user with too many. */
  readonly grants: Readonly<Record<string, Readonly<Record<string, number>> | null>> | null
  /** Only where a query asks for a fact that has one. */
  readonly value?: unknown
}

type RowReader = {
  readonly kind: FactKind
  readonly idColumn: IdColumn
  /** For a kind that shares the id of its referrer: the id names the fact even if it has no row, so it is known absent. */
  readonly sharedIdColumn: IdColumn | undefined
  toFact(row: Row): unknown
}

const toReader = (definition: RowDefinition): RowReader => {
  const sharing = referrersOf(definition).find(({ referrer, column }) => column === `${referrer.row.alias}.id`)
  return {
    kind: definition.kind as FactKind,
    idColumn: idColumnOf(definition.kind),
    sharedIdColumn: sharing && idColumnOf(sharing.referrer.kind),
    toFact: definition.row.toFact,
  }
}

/** What a result row may hold, by the kind of its query. */
const readersByKind: ReadonlyMap<FactKind, readonly RowReader[]> = new Map(
  factKinds.map((kind) => [
    kind,
    rowDefinitions.filter((definition) => kindsReaching(definition).includes(kind)).map(toReader),
  ]),
)

type LoadOptions = {
  /** Reads the effective rows that triggers keep (default), or derives access from the base tables. */
  readonly effective?: boolean
}

export type FactStore = { load(queries: readonly FactQuery[], options?: LoadOptions): Promise<LoadedFacts> }

/** The users whose grants a load reads, each once. */
const usersOf = (queries: readonly FactQuery[]): string[] => [
  ...new Set(
    queries.flatMap(({ kind, id, userId }) => {
      if (kind === 'grants') return [id]
      return kind === 'grant' || userId === null ? [] : [userId]
    }),
  ),
]

type StoreOptions = {
  /** A user with more grants has one fact for each project. */
  readonly maxGrants?: number
}

export const createFactStore = (sql: Queryable, { maxGrants = usualMaxGrants }: StoreOptions = {}): FactStore => ({
  load: async (queries, { effective = true } = {}) => {
    const access = effective ? 'effective' : 'expected'
    const rows = await sql.unsafe<Row[]>(
      statements[queries.some(hasValue) ? (`${access}WithValues` as const) : access],
      [
        queries.map(({ kind }) => kind),
        queries.map(({ id }) => id),
        queries.map(({ userId }) => userId),
        usersOf(queries),
        maxGrants,
      ],
      { prepare: true },
    )
    const facts = new Map<FactKey, Fact[FactKind] | null>()
    const many = new Set<string>()
    for (const { grants } of rows) {
      for (const [id, granted] of Object.entries(grants ?? {})) {
        const fact: GrantsFact = granted === null ? 'many' : { granted }
        facts.set(factKey('grants', id), fact)
        if (granted === null) many.add(id)
      }
    }
    for (const row of rows) {
      if (definitionOf(row.kind).row !== undefined) facts.set(factKey(row.kind, row.id), null)
      const { value } = definitionOf(row.kind)
      if (value !== undefined) facts.set(factKey(row.kind, row.id), value.toFact(row.value as never) as Fact[FactKind])
      for (const { kind, idColumn, sharedIdColumn, toFact } of readersByKind.get(row.kind) ?? []) {
        const id = row[idColumn] ?? null
        if (id !== null) facts.set(factKey(kind, id), toFact(row) as Fact[FactKind])
        else if (sharedIdColumn !== undefined) {
          const sharedId = row[sharedIdColumn] ?? null
          if (sharedId !== null) facts.set(factKey(kind, sharedId), null)
        }
      }
      const projectId = row.project_id ?? (row.kind === 'project' || row.kind === 'grant' ? row.id : null)
      if (row.user_id !== null && projectId !== null && (row.kind === 'grant' || many.has(row.user_id))) {
        // No row is an answer too: nothing is granted.
        facts.set(factKey('grant', partId(row.user_id, projectId)), row.grant_actions ?? 0)
      }
    }
    return facts
  },
})
