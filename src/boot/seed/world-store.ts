import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { Sql, TransactionSql } from '../../platform/postgres.ts'
import type { Table } from './large-world.ts'

/** Characters that are sent to Postgres at once. */
const chunkLength = 65_536
const linesPerReport = 250_000

/** The lines joined to chunks. `onLines` is called now and then with the lines sent so far. */
function* chunksOf(lines: Iterable<string>, onLines: (sent: number) => void) {
  let chunk = ''
  let sent = 0
  for (const line of lines) {
    chunk += `${line}\n`
    sent += 1
    if (sent % linesPerReport === 0) onLines(sent)
    if (chunk.length < chunkLength) continue
    yield chunk
    chunk = ''
  }
  if (chunk !== '') yield chunk
}

const copy = async (tx: TransactionSql, { name, columns, lines }: Table, onLines: (sent: number) => void) => {
  const into = await tx`copy ${tx(name)} (${tx([...columns])}) from stdin`.writable()
  await pipeline(Readable.from(chunksOf(lines(), onLines)), into)
}

/** Whether there are accounts. */
export const hasAccounts = async (sql: Sql): Promise<boolean> => {
  const { count } = await sql`select from users limit 1`
  return count > 0
}

type Definition = { readonly table: string; readonly name: string; readonly definition: string }

/**
 * Drops the foreign keys and the indexes of tables that are empty, but for the indexes of constraints, and returns what adds
 * them again: to check and to sort all rows at once takes a fraction of the time.
 */
const dropForEmpty = async (tx: TransactionSql, names: readonly string[]): Promise<() => Promise<void>> => {
  const tables = [...names]
  const keys = await tx<Definition[]>`
    select conrelid::regclass::text as table, conname as name, pg_get_constraintdef(oid) as definition
      from pg_constraint where contype = 'f' and conrelid in (select t::regclass from unnest(${tables}::text[]) t) order by conname`
  const indexes = await tx<Definition[]>`
    select indrelid::regclass::text as table, indexrelid::regclass::text as name, pg_get_indexdef(indexrelid) as definition
      from pg_index i where indrelid in (select t::regclass from unnest(${tables}::text[]) t)
       and not exists (select from pg_constraint c where c.conindid = i.indexrelid) order by indexrelid::regclass::text`
  for (const { table, name } of keys) await tx`alter table ${tx(table)} drop constraint ${tx(name)}`
  for (const { name } of indexes) await tx`drop index ${tx(name)}`
  return async () => {
    for (const { definition } of indexes) await tx.unsafe(definition)
    for (const { table, name, definition } of keys) {
      await tx`alter table ${tx(table)} add constraint ${tx(name)} ${tx.unsafe(definition)}`
    }
  }
}

/**
 * Writes the tables in one transaction and computes the rows that triggers keep (effective access, usage) once for all rows,
 * from the views and functions of the schema. The triggers of the tables are off in this transaction only; constraints and
 * foreign keys hold at its end. Running instances see all of it or
 * nothing, and clear their memory.
 */
export const writeWorld = async (
  sql: Sql,
  tables: readonly Table[],
  report: (what: string, rows: number, total: number) => void,
): Promise<void> => {
  const names = [...tables.map(({ name }) => name), 'project_access', 'public_generations']
  const isEmpty = !(await hasAccounts(sql))
  await sql.begin(async (tx) => {
    await tx`select set_config('statement_timeout', '0', true), set_config('lock_timeout', '0', true)`
    for (const name of names) await tx`alter table ${tx(name)} disable trigger user`
    const restore = isEmpty ? await dropForEmpty(tx, names) : async () => {}
    for (const table of tables) {
      await copy(tx, table, (sent) => {
        if (sent < table.rows) report(table.name, sent, table.rows)
      })
      report(table.name, table.rows, table.rows)
    }
    for (const { name } of tables) await tx`analyze ${tx(name)}`
    const { count } = await tx`
      insert into project_access (user_id, project_id, actions, owned)
      select user_id, project_id, actions, owned from project_access_expected order by user_id, project_id
          on conflict do nothing`
    report('project_access', count, count)
    await tx`
      insert into public_generations (id, project_id)
      select id, project_id from public_generations_expected order by id on conflict do nothing`
    await restore()
    await tx`select recount_usage()`
    for (const name of names) await tx`alter table ${tx(name)} enable trigger user`
    await tx`select note_touched(${'*\n'})`
  })
  await sql`vacuum analyze`
}
