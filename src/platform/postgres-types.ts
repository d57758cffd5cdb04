import { Buffer } from 'node:buffer'
import type postgres from 'postgres'
import { parse as parseArray } from 'postgres-array'

/**
 * Types of values that the driver does not handle without asking the server first, which costs a statement on each new
 * connection. The numbers are those of the built-in types, which never change.
 */

const isEscape = /\\(\\|[0-7]{3})/g

/** Reads both values of `bytea_output`: a pooler may not let us choose. In `escape` a backslash is doubled, so `\x` is `hex`. */
const parseBytes = (text: string): Buffer =>
  text.startsWith('\\x')
    ? Buffer.from(text.slice(2), 'hex')
    : Buffer.from(
        text.replace(isEscape, (_, code: string) =>
          code === '\\' ? code : String.fromCharCode(Number.parseInt(code, 8)),
        ),
        'latin1',
      )

const quote = (element: unknown): string => `"${String(element).replace(/["\\]/g, '\\$&')}"`

const serializeArray = (value: unknown): unknown =>
  Array.isArray(value)
    ? `{${value.map((element) => (element === null || element === undefined ? 'null' : quote(element))).join()}}`
    : value

const arrayOf = (oid: number, element: (text: string) => unknown = String): postgres.PostgresType => ({
  to: oid,
  from: [oid],
  serialize: serializeArray,
  parse: (text: string) => parseArray(text, element),
})

/** An array of a type that is not listed is refused by the server as malformed, and read as text. */
export const types: Record<string, postgres.PostgresType> = {
  bytea: {
    to: 17,
    from: [17],
    serialize: (bytes: Uint8Array) => `\\x${Buffer.from(bytes).toString('hex')}`,
    parse: parseBytes,
  },
  booleans: arrayOf(1000, (text) => text === 't'),
  integers: arrayOf(1007, Number),
  bigints: arrayOf(1016),
  floats: arrayOf(1022, Number),
  names: arrayOf(1003),
  texts: arrayOf(1009),
  uuids: arrayOf(2951),
}
