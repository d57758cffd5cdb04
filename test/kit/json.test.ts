import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { InvalidJson, parseJson } from '../../src/kit/json.ts'

const bytesOf = (text: string) => new TextEncoder().encode(text)

const refusal = (bytes: Uint8Array | string): string => {
  try {
    parseJson(typeof bytes === 'string' ? bytesOf(bytes) : bytes)
  } catch (error) {
    if (error instanceof InvalidJson) return error.reason
    throw error
  }
  throw new Error('It was not refused')
}

const notUtf8 = 'The body is not UTF-8'
const notJson = 'The body is not JSON'
const unstorable = 'A string contains a NUL character or a lone surrogate'

test('every storable JSON value is parsed unchanged', () => {
  const text = fc.string({ unit: 'grapheme' }).filter((value) => !value.includes('\0'))
  const value = fc.jsonValue({ stringUnit: 'grapheme' }).filter((json) => !JSON.stringify(json).includes('\\u0000'))
  fc.assert(
    fc.property(fc.oneof(value, text), (json) => {
      expect(parseJson(bytesOf(JSON.stringify(json)))).toEqual(JSON.parse(JSON.stringify(json)))
    }),
  )
})

test('bytes that are not UTF-8 are rejected', () => {
  for (const bytes of [
    [0x22, 0xff, 0x22],
    [0x22, 0xc3, 0x22], // cut off
    [0x22, 0xc0, 0xaf, 0x22], // overlong
    [0x22, 0xed, 0xa0, 0x80, 0x22], // a surrogate
    [0x22, 0xf4, 0x90, 0x80, 0x80, 0x22], // beyond U+10FFFF
  ]) {
    expect(refusal(new Uint8Array(bytes))).toBe(notUtf8)
  }
})

test('text that is not JSON is rejected', () => {
  for (const text of ['', ' ', '{', '{"a":1,}', "{'a':1}", '[1] [2]', 'NaN', '01', '"\n"', 'undefined', '/**/1']) {
    expect(refusal(text)).toBe(notJson)
  }
})

describe('strings that a Postgres text column cannot store', () => {
  test('are rejected: NUL and lone surrogates, in values and in names, at any depth', () => {
    for (const string of ['"\\u0000"', '"a\\u0000b"', '"\\ud800"', '"\\udc00"', '"\\udc00\\ud800"', '"x\\uD83D"']) {
      expect(refusal(string)).toBe(unstorable)
      expect(refusal(`{${string}:1}`)).toBe(unstorable)
      expect(refusal(`[1,{"a":[null,{"b":${string}}]}]`)).toBe(unstorable)
      expect(refusal(`[[{"a":{${string}:[]}}]]`)).toBe(unstorable)
    }
  })

  test('are accepted where nothing is stored', () => {
    const text = '{"\\ud800":["\\u0000"]}'
    expect(parseJson(bytesOf(text), () => false)).toEqual(JSON.parse(text))
    expect(() => parseJson(bytesOf(text), () => true)).toThrow(InvalidJson)
  })

  test('are distinguished from other escapes, which are accepted', () => {
    expect(parseJson(bytesOf('["\\u0041","\\ud83d\\ude00","\\\\u0000","\\n"]'))).toEqual(['A', '😀', '\\u0000', '\n'])
  })
})

describe('deep nesting', () => {
  const mebi = 1_048_576
  const tooDeep = 'The body is nested deeper than 64 levels'

  test('is rejected, with and without closing brackets', () => {
    expect(refusal('['.repeat(mebi))).toBe(tooDeep)
    expect(refusal('{"a":'.repeat(mebi / 5))).toBe(tooDeep)
    expect(refusal('['.repeat(mebi / 2) + ']'.repeat(mebi / 2))).toBe(tooDeep)
  })

  test('is not confused with length or with brackets inside strings', () => {
    const long = [Array.from({ length: 2_000 }, (_, index) => [{ index }])]
    const words = ['['.repeat(2_000), '{"[', '\\', '\\"[[', ...Array.from({ length: 200 }, () => '"[')]
    for (const value of [long, words]) expect(parseJson(bytesOf(JSON.stringify(value)))).toEqual(value)
  })

  test('is accepted up to 64 levels', () => {
    const nest = (depth: number) => `${'['.repeat(depth)}"${'x'.repeat(2_000)}"${']'.repeat(depth)}`
    expect(Array.isArray(parseJson(bytesOf(nest(64))))).toBe(true)
    expect(refusal(nest(65))).toBe(tooDeep)
  })
})
