import { parse } from 'csv-parse/sync'

/*
 * Tables as other systems export them: plain dumps of pg_dump, JSON, JSON lines and CSV. Pure.
 */

/** A row by the names of its columns. Text formats give text; JSON also numbers, booleans and objects. */
export type SourceRow = Readonly<Record<string, unknown>>
export type SourceTable = {
  readonly rows: readonly SourceRow[]
  /** Of each row that could not be read: where it stands, and why. */
  readonly refused: readonly { readonly place: string; readonly reason: string }[]
}
/** By name; in a dump of Postgres with its schema, as in `auth.users`. */
export type SourceTables = ReadonlyMap<string, SourceTable>

/** The file as a whole cannot be read. */
export class FileRefused extends Error {
  override readonly name = 'FileRefused'
}

const isRow = (value: unknown): value is SourceRow =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const toTable = (values: readonly unknown[], placeOf: (index: number) => string): SourceTable => ({
  rows: values.filter(isRow),
  refused: values.flatMap((value, index) =>
    isRow(value) ? [] : [{ place: placeOf(index), reason: 'must be an object' }],
  ),
})

const parseJson = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    throw new FileRefused('must be valid JSON')
  }
}

/** An array is the table `name`; an object holds one array for each table. */
const readJson = (text: string, name: string): SourceTables => {
  const value = parseJson(text)
  const place = (table: string) => (index: number) => `item ${index + 1} of ${table}`
  if (Array.isArray(value)) return new Map([[name, toTable(value, place(name))]])
  if (!isRow(value)) throw new FileRefused('must be a JSON array, or an object of arrays')
  const tables = Object.entries(value).filter((entry): entry is [string, unknown[]] => Array.isArray(entry[1]))
  return new Map(tables.map(([table, rows]) => [table, toTable(rows, place(table))]))
}

const readJsonLines = (text: string, name: string): SourceTables => {
  const rows: SourceRow[] = []
  const refused: { place: string; reason: string }[] = []
  for (const [index, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue
    const place = `line ${index + 1}`
    try {
      const value: unknown = JSON.parse(line)
      if (isRow(value)) rows.push(value)
      else refused.push({ place, reason: 'must be an object' })
    } catch {
      refused.push({ place, reason: 'must be valid JSON' })
    }
  }
  return new Map([[name, { rows, refused }]])
}

const readCsv = (text: string, name: string): SourceTables => {
  const refused: { place: string; reason: string }[] = []
  try {
    const rows = parse(text, {
      bom: true,
      columns: true,
      skip_empty_lines: true,
      skip_records_with_error: true,
      on_skip: (error) => {
        refused.push({
          place: `line ${String(error?.['lines'] ?? '?')}`,
          reason: 'must be a record of the columns in the first line',
        })
        return undefined
      },
    }) as SourceRow[]
    return new Map([[name, { rows, refused }]])
  } catch {
    throw new FileRefused('must be CSV with the names of the columns in the first line')
  }
}

const escapes: Readonly<Record<string, string>> = { b: '\b', f: '\f', n: '\n', r: '\r', t: '\t', v: '\v' }

/** A field of the text format of COPY: `\N` is null. */
const unescapeField = (field: string): string | null =>
  field === '\\N'
    ? null
    : field.replace(/\\([0-7]{1,3}|x[0-9a-fA-F]{1,2}|.)/gs, (_, code: string) => {
        if (/^[0-7]/.test(code)) return String.fromCharCode(Number.parseInt(code, 8))
        if (/^x./.test(code)) return String.fromCharCode(Number.parseInt(code.slice(1), 16))
        return escapes[code] ?? code
      })

const copyPattern = /^COPY ((?:(?:"[^"]+"|[^".( ]+)\.)?(?:"[^"]+"|[^".( ]+)) \((.*)\) FROM stdin;$/

/** The tables of a plain dump of pg_dump, from its COPY statements. */
const readDump = (text: string): SourceTables => {
  const tables = new Map<string, { rows: SourceRow[]; refused: { place: string; reason: string }[] }>()
  const lines = text.split('\n')
  for (let at = 0; at < lines.length; at += 1) {
    const [, quoted, list] = copyPattern.exec((lines[at] ?? '').trimEnd()) ?? []
    if (quoted === undefined || list === undefined) continue
    const name = quoted.replaceAll('"', '')
    const columns = list.split(',').map((column) => column.trim().replace(/^"(.*)"$/, '$1'))
    const table = tables.get(name) ?? { rows: [], refused: [] }
    tables.set(name, table)
    for (at += 1; at < lines.length; at += 1) {
      const line = (lines[at] ?? '').replace(/\r$/, '')
      if (line === '\\.') break
      const fields = line.split('\t').map(unescapeField)
      if (fields.length === columns.length)
        table.rows.push(Object.fromEntries(columns.map((column, index) => [column, fields[index] ?? null])))
      else table.refused.push({ place: `line ${at + 1}`, reason: `must have ${columns.length} columns` })
    }
  }
  if (tables.size === 0)
    throw new FileRefused(
      'must be a plain dump with COPY statements (pg_dump, or supabase db dump --data-only --use-copy)',
    )
  return tables
}

/** Reads a file by its ending. A file of one table has the name of the table. */
export const readTables = (fileName: string, text: string): SourceTables => {
  const base = fileName.replace(/^.*[/\\]/, '')
  const [, name = '', ending = ''] = /^(.*)\.([^.]*)$/.exec(base) ?? [undefined, base, '']
  switch (ending.toLowerCase()) {
    case 'sql':
      return readDump(text)
    case 'json':
      return readJson(text, name)
    case 'jsonl':
    case 'ndjson':
      return readJsonLines(text, name)
    case 'csv':
      return readCsv(text, name)
    default:
      throw new FileRefused('must end with .sql, .json, .jsonl, .ndjson or .csv')
  }
}
