import { Buffer } from 'node:buffer'
import type postgres from 'postgres'
import { parse as parseArray } from 'postgres-array'

/**
 * Arrays and bytes, which the driver does not handle without asking the server first: a statement on each new connection.
 * The numbers are those of the built-in types, which never change.
 */

const isEscape = /\\(\\|[0-7]{3})/g

/** Reads both formats of `bytea_output`: a pooler may not let us choose. In `escape` a backslash is doubled, so `\x` is `hex`. */
const parseBytes = (text: string): Buffer =>
  text.startsWith('\\x')
    ? Buffer.from(text.slice(2), 'hex')
    : Buffer.from(
        text.replace(isEscape, (_, code: string) =>
          code === '\\' ? code : String.fromCharCode(Number.parseInt(code, 8)),
        ),
        'latin1',
      )

const toHex = (bytes: Uint8Array): string => `\\x${Buffer.from(bytes).toString('hex')}`

const toText = (element: unknown): string => {
  if (element instanceof Date) return element.toISOString()
  if (element instanceof Uint8Array) return toHex(element)
  return typeof element === 'object' ? JSON.stringify(element) : String(element)
}

const quote = (text: string): string => `"${text.replace(/["\\]/g, '\\$&')}"`

const serializeArray = (value: unknown): unknown =>
  Array.isArray(value)
    ? `{${value.map((element) => (element === null || element === undefined ? 'null' : quote(toText(element)))).join()}}`
    : value

const toDate = (text: string): Date => new Date(text)

/** The array types by how their elements are read, as the driver reads single values. */
const arrays: readonly (readonly [oids: readonly number[], read: (text: string) => unknown])[] = [
  // name, bpchar, text, varchar, int8, numeric, uuid, inet, interval
  [[1003, 1014, 1009, 1015, 1016, 1231, 2951, 1041, 1187], String],
  // int2, int4, oid, float4, float8
  [[1005, 1007, 1028, 1021, 1022], Number],
  [[1000], (text) => text === 't'],
  // date, timestamp, timestamptz
  [[1182, 1115, 1185], toDate],
  // json, jsonb
  [[199, 3807], JSON.parse],
  [[1001], parseBytes],
]

/** An array of another type is refused by the server as malformed, and read as text. */
export const types: Record<string, postgres.PostgresType> = {
  bytea: { to: 17, from: [17], serialize: toHex, parse: parseBytes },
  ...Object.fromEntries(
    arrays.flatMap(([oids, read]) =>
      oids.map((oid) => [
        `array${oid}`,
        { to: oid, from: [oid], serialize: serializeArray, parse: (text: string) => parseArray(text, read) },
      ]),
    ),
  ),
}
