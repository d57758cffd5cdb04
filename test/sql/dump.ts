import type { Queryable } from '../../src/platform/postgres.ts'

type Column = {
  table_name: string
  name: string
  type: string
  not_null: boolean
  expression: string | null
  kind: 'default' | 'stored' | 'virtual' | 'identity always' | 'identity by default'
}
type Named = { table_name: string; name: string; definition: string }

const readTables = (sql: Queryable) => sql<{ name: string; options: string | null; partition_key: string | null }[]>`
  select relname as name, array_to_string(reloptions, ', ') as options,
         case when relkind = 'p' then pg_get_partkeydef(oid) end as partition_key
    from pg_class
   where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relispartition
   order by relname`

const readColumns = (sql: Queryable) => sql<Column[]>`
  select c.relname as table_name, a.attname as name, format_type(a.atttypid, a.atttypmod) as type,
         a.attnotnull as not_null, pg_get_expr(d.adbin, d.adrelid) as expression,
         case when a.attidentity = 'a' then 'identity always' when a.attidentity = 'd' then 'identity by default'
              when a.attgenerated = 's' then 'stored' when a.attgenerated = 'v' then 'virtual' else 'default' end as kind
    from pg_attribute a
    join pg_class c on c.oid = a.attrelid
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
   where c.relnamespace = 'public'::regnamespace and a.attnum > 0 and not a.attisdropped
   order by a.attnum`

/** Without NOT NULL, which is printed with its column. */
const readConstraints = (sql: Queryable) => sql<Named[]>`
  select c.relname as table_name, k.conname as name, pg_get_constraintdef(k.oid) as definition
    from pg_constraint k join pg_class c on c.oid = k.conrelid
   where k.connamespace = 'public'::regnamespace and k.contype in ('p', 'u', 'f', 'c', 'x')
   order by position(k.contype::text in 'pufcx'), k.conname`

/** Without the indexes of constraints. */
const readIndexes = (sql: Queryable) => sql<Named[]>`
  select t.relname as table_name, c.relname as name, pg_get_indexdef(c.oid) as definition
    from pg_index i join pg_class c on c.oid = i.indexrelid join pg_class t on t.oid = i.indrelid
   where c.relnamespace = 'public'::regnamespace and not c.relispartition
     and not exists (select from pg_constraint k where k.conindid = c.oid and k.contype in ('p', 'u', 'x'))
   order by c.relname`

const readTriggers = (sql: Queryable) => sql<Named[]>`
  select c.relname as table_name, t.tgname as name,
         pg_get_triggerdef(t.oid) || case t.tgenabled when 'O' then '' else ' -- enabled: ' || t.tgenabled::text end as definition
    from pg_trigger t join pg_class c on c.oid = t.tgrelid
   where c.relnamespace = 'public'::regnamespace and not t.tgisinternal and not c.relispartition
   order by c.relname, t.tgname`

const readViews = (sql: Queryable) => sql<{ name: string; kind: string; definition: string }[]>`
  select relname as name, case relkind when 'm' then 'materialized view' else 'view' end as kind,
         pg_get_viewdef(oid) as definition
    from pg_class where relnamespace = 'public'::regnamespace and relkind in ('v', 'm') order by relname`

/** Without the functions of extensions. */
const readFunctions = (sql: Queryable) => sql<{ definition: string; comment: string }[]>`
  select pg_get_functiondef(p.oid) as definition,
         format('comment on %s %s(%s) is %L;', case p.prokind when 'p' then 'procedure' else 'function' end, p.proname,
                pg_get_function_identity_arguments(p.oid), obj_description(p.oid, 'pg_proc')) as comment
    from pg_proc p
   where p.pronamespace = 'public'::regnamespace and p.prokind in ('f', 'p')
     and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')
   order by p.proname, pg_get_function_identity_arguments(p.oid)`

/** Comments on tables, views, their columns and their indexes, as statements. */
const readComments = (sql: Queryable) => sql<{ table_name: string; definition: string }[]>`
  select coalesce(t.relname, c.relname) as table_name,
         format('comment on %s %s is %L;',
                case when d.objsubid > 0 then 'column'
                     else case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'i' then 'index'
                                         when 'S' then 'sequence' else 'table' end end,
                c.relname || coalesce('.' || a.attname, ''), d.description) as definition
    from pg_description d
    join pg_class c on c.oid = d.objoid and d.classoid = 'pg_class'::regclass
    left join pg_index i on i.indexrelid = c.oid
    left join pg_class t on t.oid = i.indrelid
    left join pg_attribute a on a.attrelid = c.oid and a.attnum = d.objsubid and d.objsubid > 0
   where c.relnamespace = 'public'::regnamespace and not c.relispartition
   order by 1, d.objsubid, c.relname`

const readEnums = (sql: Queryable) => sql<{ name: string; members: string }[]>`
  select t.typname as name, string_agg(quote_literal(e.enumlabel), ', ' order by e.enumsortorder) as members
    from pg_type t join pg_enum e on e.enumtypid = t.oid
   where t.typnamespace = 'public'::regnamespace group by t.typname order by t.typname`

const readSequences = (sql: Queryable) => sql<{ name: string; type: string }[]>`
  select c.relname as name, format_type(s.seqtypid, null) as type
    from pg_sequence s join pg_class c on c.oid = s.seqrelid
   where c.relnamespace = 'public'::regnamespace
     and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'i')
   order by c.relname`

const readExtensions = (sql: Queryable) => sql<{ name: string }[]>`
  select extname as name from pg_extension where extname <> 'plpgsql' order by extname`

const toColumn = ({ name, type, not_null, expression, kind }: Column): string => {
  const value = {
    default: expression === null ? '' : ` default ${expression}`,
    stored: ` generated always as (${expression}) stored`,
    virtual: ` generated always as (${expression}) virtual`,
    'identity always': ' generated always as identity',
    'identity by default': ' generated by default as identity',
  }[kind]
  return `${name} ${type}${value}${not_null ? ' not null' : ''}`
}

const header = `-- The schema that the migrations and the function files result in, read from the catalog. It is for review: do not run or
-- edit it. A test compares it; UPDATE_SCHEMA=1 bun test test/sql/schema.test.ts writes it. Partitions created at run time
-- are left out.
`

/**
 * Everything in the public schema, as SQL for review. Two equal schemas have the same text, independent of
 * the server and of the order of their statements. Each table is followed by its indexes, triggers and comments.
 */
export const dumpSchema = async (sql: Queryable): Promise<string> => {
  const [tables, columns, constraints, indexes, triggers, comments] = await Promise.all([
    readTables(sql),
    readColumns(sql),
    readConstraints(sql),
    readIndexes(sql),
    readTriggers(sql),
    readComments(sql),
  ])
  const of = <T extends { table_name: string }>(table: string, rows: readonly T[]) =>
    rows.filter(({ table_name }) => table_name === table)
  const statements = (table: string) => [
    ...of(table, indexes).map(({ definition }) => `${definition};`),
    ...of(table, triggers).map(({ definition }) => `${definition};`),
    ...of(table, comments).map(({ definition }) => definition),
  ]
  const toTable = ({ name, options, partition_key }: (typeof tables)[number]): string => {
    const members = [
      ...of(name, columns).map(toColumn),
      ...of(name, constraints).map((constraint) => `constraint ${constraint.name} ${constraint.definition}`),
    ]
    const end = `${partition_key ? ` partition by ${partition_key}` : ''}${options ? ` with (${options})` : ''}`
    return [`create table ${name} (\n${members.map((member) => `  ${member}`).join(',\n')}\n)${end};`]
      .concat(statements(name))
      .join('\n')
  }
  const parts = [
    (await readExtensions(sql)).map(({ name }) => `create extension ${name};`),
    (await readEnums(sql)).map(({ name, members }) => `create type ${name} as enum (${members});`),
    (await readSequences(sql)).map(({ name, type }) => `create sequence ${name} as ${type};`),
    (await readFunctions(sql)).map(({ definition, comment }) => `${definition.trimEnd()};\n${comment}`),
    tables.map(toTable),
    (await readViews(sql)).map(({ name, kind, definition }) =>
      [`create ${kind} ${name} as\n${definition}`, ...statements(name)].join('\n'),
    ),
  ]
  return [header, ...parts.flat().map((part) => `${part}\n`)].join('\n')
}
