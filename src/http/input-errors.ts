import { ValueErrorType } from '@sinclair/typebox/errors'
import type { InputProblem } from '../fault.ts'
import { idPattern } from '../kit/id.ts'
import { namePattern } from '../kit/plain-text.ts'
import {
  emailPattern,
  flagNamePattern,
  modelIdPattern,
  notBlankPattern,
  secretPattern,
  subjectIdPattern,
} from './schema-types.ts'

/** The keywords that decide the words about a value; a schema of TypeBox has them all at the top. */
type Expected = {
  readonly type?: string
  readonly const?: unknown
  readonly enum?: readonly unknown[]
  readonly anyOf?: readonly Expected[]
  readonly pattern?: string
  readonly format?: string
  readonly minimum?: number
  readonly maximum?: number
  readonly minLength?: number
  readonly maxLength?: number
  readonly minItems?: number
  readonly maxItems?: number
  readonly uniqueItems?: boolean
  /** What a client sees where the schema checks the spelling of a number. */
  readonly documented?: Expected
}

const maxErrors = 20

/** As the validator reports it. */
export type InputError = { readonly path?: string; readonly type?: number; readonly schema?: object }

/** The words for a regular expression, which no caller sees. */
export const patternWords: Readonly<Record<string, string>> = {
  [idPattern]: 'a UUID in lower case',
  [emailPattern]: 'an e-mail address',
  [secretPattern]: 'a token of 43 base64url characters',
  [flagNamePattern]: '1 to 64 lower-case letters, digits and hyphens, not beginning with a hyphen',
  [subjectIdPattern]: '1 to 200 visible ASCII characters',
  [modelIdPattern]: 'the id of a model, such as local/procedural',
  [notBlankPattern]: 'text with more than white space in it',
  [namePattern]:
    'text on one line, not only white space, without control characters or those that change the direction of writing',
}

const range = (least: number | undefined, most: number | undefined): string => {
  if (least !== undefined && most !== undefined) return ` from ${least} to ${most}`
  if (most !== undefined) return ` of at most ${most}`
  return least === undefined ? '' : ` of at least ${least}`
}

const size = (least = 0, most: number | undefined, unit: string): string => {
  if (most === undefined) return least === 0 ? '' : ` of at least ${least} ${unit}`
  if (least === 0) return ` of at most ${most} ${unit}`
  return least === most ? ` of ${most} ${unit}` : ` of ${least} to ${most} ${unit}`
}

const textWords = ({ format, pattern, minLength, maxLength }: Expected): string => {
  if (format === 'date-time') return 'a date and time with a time zone, such as 2030-01-31T12:00:00Z'
  const words = pattern === undefined ? undefined : patternWords[pattern]
  if (pattern === namePattern) return `text${size(minLength, maxLength, 'characters')} ${words?.slice('text '.length)}`
  if (words !== undefined && pattern !== notBlankPattern) return words
  return `text${size(minLength, maxLength, 'characters')}${words === undefined ? '' : ', not only white space'}`
}

const words = (schema: Expected): string => {
  const { anyOf, documented } = schema
  if (documented !== undefined) return words(documented)
  if (anyOf !== undefined) return [...new Set(anyOf.map(words))].join(' or ')
  if (schema.const !== undefined) return JSON.stringify(schema.const)
  if (schema.enum !== undefined) return `one of ${schema.enum.join(', ')}`
  switch (schema.type) {
    case 'integer':
      return `a whole number${range(schema.minimum, schema.maximum)}`
    case 'number':
      return `a number${range(schema.minimum, schema.maximum)}`
    case 'string':
      return textWords(schema)
    case 'boolean':
      return 'true or false'
    case 'null':
      return 'null'
    case 'array':
      return `a list${size(schema.minItems, schema.maxItems, 'items')}${schema.uniqueItems ? ', none of them twice' : ''}`
    case 'object':
      return 'an object'
    default:
      return 'a value that this field accepts'
  }
}

/** The message about one error: describes the accepted values, shows no regular expression, and repeats nothing of the input. */
export const describeInputError = ({ type, schema = {} }: InputError): string => {
  switch (type) {
    case ValueErrorType.ObjectAdditionalProperties:
      return 'is not a field of this request'
    case ValueErrorType.ObjectRequiredProperty:
      return 'is required'
    case ValueErrorType.ObjectMinProperties:
      return 'must have at least one field'
    default:
      return `must be ${words(schema as Expected)}`
  }
}

/** Names of members are repeated in pointers, and a client chooses them. */
const maxPointerLength = 256

/** The errors of one part of a request, one per place, and at most `maxErrors`: the rest is not searched for. */
export const toInputProblems = (part: InputProblem['in'], errors: Iterable<InputError>): InputProblem[] => {
  const byPointer = new Map<string, InputProblem>()
  for (const error of Iterator.from(errors).take(maxErrors)) {
    const pointer = (error.path ?? '').slice(0, maxPointerLength)
    if (!byPointer.has(pointer)) byPointer.set(pointer, { in: part, pointer, detail: describeInputError(error) })
  }
  return [...byPointer.values()]
}
