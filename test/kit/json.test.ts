import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { InvalidJson, jsonLimits, maxScanBytes, parseJson, parseLargeJson, parseSmallText } from '../../src/kit/json.ts'

const bytesOf = (text: string) => new TextEncoder().encode(text)

const nextTurn = async () => {}
const parse = async (text: string | Uint8Array, { refusesUnstorable = true } = {}): Promise<unknown> => {
  const bytes = typeof text === 'string' ? bytesOf(text) : text
  if (bytes.length <= maxScanBytes) return parseJson(bytes, refusesUnstorable)
  return parseLargeJson(bytes, { refusesUnstorable, nextTurn })
}

const refusal = async (text: Uint8Array | string): Promise<string> => {
  try {
    await parse(text)
  } catch (error) {
    if (error instanceof InvalidJson) return error.reason
    throw error
  }
  return 'accepted'
}

const notUtf8 = 'must be UTF-8'
const notJson = 'must be JSON'
const unstorable = 'must have no NUL character and no lone surrogate in its strings'
const mebi = 1_048_576

/** The same text below 1 KiB, above it, and so long that it is scanned in slices. */
const atEverySize = (text: string): string[] => [0, 2_000, 3 * maxScanBytes].map((blanks) => text + ' '.repeat(blanks))

test('every storable JSON value is parsed unchanged, at every size', async () => {
  const text = fc.string({ unit: 'grapheme' }).filter((value) => !value.includes('\0'))
  const value = fc.jsonValue({ stringUnit: 'grapheme' }).filter((json) => !JSON.stringify(json).includes('\\u0000'))
  await fc.assert(
    fc.asyncProperty(fc.oneof(value, text), async (json) => {
      for (const sized of atEverySize(JSON.stringify(json))) {
        expect(await parse(sized)).toEqual(JSON.parse(JSON.stringify(json)))
      }
    }),
    { numRuns: 50 },
  )
})

test('bytes that are not UTF-8 are rejected', async () => {
  for (const bytes of [
    [0x22, 0xff, 0x22],
    [0x22, 0xc3, 0x22], // cut off
    [0x22, 0xc0, 0xaf, 0x22], // overlong
    [0x22, 0xed, 0xa0, 0x80, 0x22], // a surrogate
    [0x22, 0xf4, 0x90, 0x80, 0x80, 0x22], // beyond U+10FFFF
  ]) {
    expect(await refusal(new Uint8Array(bytes))).toBe(notUtf8)
    expect(await refusal(new Uint8Array([...bytes, ...Array<number>(2_000).fill(0x20)]))).toBe(notUtf8)
  }
})

test('text that is not JSON is rejected at every size', async () => {
  for (const text of [
    '',
    ' ',
    '{',
    '{"a":1,}',
    "{'a':1}",
    '[1] [2]',
    'NaN',
    '01',
    '"\n"',
    'undefined',
    '/**/1',
    ']',
    '"\\u00"',
  ]) {
    for (const sized of atEverySize(text)) expect([text, await refusal(sized)]).toEqual([text, notJson])
  }
})

describe('strings that a Postgres text column cannot store', () => {
  const wrong = [
    '"\\u0000"',
    '"a\\u0000b"',
    '"\\ud800"',
    '"\\udc00"',
    '"\\udc00\\ud800"',
    '"x\\uD83D"',
    '"\\ud83d\\n"',
    '"\\ud800\\ud800"',
  ]

  test('are rejected at every size: NUL and lone surrogates, in values and in names, at any depth', async () => {
    for (const string of wrong) {
      for (const text of [string, `{${string}:1}`, `[1,{"a":[null,{"b":${string}}]}]`, `[[{"a":{${string}:[]}}]]`]) {
        for (const sized of atEverySize(text)) expect([text, await refusal(sized)]).toEqual([text, unstorable])
      }
    }
  })

  test('are found where an escape crosses the end of a slice', async () => {
    for (let before = maxScanBytes - 14; before < maxScanBytes + 2; before += 1) {
      const text = (sequence: string) => `"${'x'.repeat(before)}${sequence}${'x'.repeat(1_000)}"`
      expect(await refusal(text('\\u0000'))).toBe(unstorable)
      expect(await refusal(text('\\ud83d'))).toBe(unstorable)
      expect(await refusal(text('\\ud83d\\ude00'))).toBe('accepted')
      expect(await refusal(text('\\\\u0000'))).toBe('accepted')
    }
  })

  test('are accepted where nothing is stored', async () => {
    for (const text of atEverySize('{"\\ud800":["\\u0000"]}')) {
      expect(await parse(text, { refusesUnstorable: false })).toEqual(JSON.parse(text))
      expect(await refusal(text)).toBe(unstorable)
    }
  })

  test('are distinguished from other escapes, which are accepted', async () => {
    for (const text of atEverySize('["\\u0041","\\ud83d\\ude00","\\\\u0000","\\n","\\"\\\\"]')) {
      expect(await parse(text)).toEqual(['A', '😀', '\\u0000', '\n', '"\\'])
    }
  })
})

describe('a text that holds too much', () => {
  const tooDeep = 'must be nested at most 64 levels deep'

  test('is rejected before it is parsed', async () => {
    const names = (count: number) => Array.from({ length: count }, (_, at) => `"${at}":1`).join(',')
    const { values, names: most, escapes, literal } = jsonLimits
    for (const [text, reason] of [
      ['['.repeat(mebi), tooDeep],
      ['{"a":'.repeat(mebi / 5), tooDeep],
      ['['.repeat(mebi / 2) + ']'.repeat(mebi / 2), tooDeep],
      [`[${Array(values + 1).fill('1')}]`, 'must have at most 20000 values'],
      [`[${Array(110_000).fill('"\\u0041"')}]`, 'must have at most 20000 values'],
      [`{${names(most + 1)}}`, 'must have at most 10000 member names'],
      [`"${'\\n'.repeat(escapes + 1)}"`, 'must have at most 50000 escapes in its strings'],
      ['1'.repeat(literal + 1), 'must have no number longer than 1024 bytes'],
      [`[1,${'1'.repeat(literal + 1)},1]`, 'must have no number longer than 1024 bytes'],
    ] as const) {
      expect([text.slice(0, 20), await refusal(text)]).toEqual([text.slice(0, 20), reason])
    }
  })

  test('is one that exceeds a limit, not one that reaches it', async () => {
    const { values, names, escapes } = jsonLimits
    for (const text of [
      `[${Array(values - 2).fill('1')}]`,
      `{${Array.from({ length: names }, (_, at) => `"${at}":1`)}}`,
      `"${'\\n'.repeat(escapes)}"`,
      `[1.${'0'.repeat(1_022)},2]`,
    ]) {
      expect([text.slice(0, 20), await refusal(text)]).toEqual([text.slice(0, 20), 'accepted'])
    }
  })

  test('is not confused with length or with brackets inside strings', async () => {
    const long = [Array.from({ length: 2_000 }, (_, index) => [{ index }])]
    const words = ['['.repeat(2_000), '{"[', '\\', '\\"[[', ...Array.from({ length: 200 }, () => '"[')]
    for (const value of [long, words]) expect(await parse(JSON.stringify(value))).toEqual(value)
  })

  test('is accepted up to 64 levels', async () => {
    const nest = (depth: number) => `${'['.repeat(depth)}"${'x'.repeat(2_000)}"${']'.repeat(depth)}`
    expect(Array.isArray(await parse(nest(64)))).toBe(true)
    expect(await refusal(nest(65))).toBe(tooDeep)
  })
})

describe('a large text', () => {
  const large = bytesOf(`"${'x'.repeat(mebi - 2)}"`)

  test('waits for a turn before each slice is scanned and before it is parsed', async () => {
    let turns = 0
    const nextTurn = async () => {
      turns += 1
    }
    expect(await parseLargeJson(large, { refusesUnstorable: true, nextTurn })).toBe('x'.repeat(mebi - 2))
    expect(turns).toBe(mebi / maxScanBytes + 1)
  })

  test('is given up when a turn is refused', async () => {
    const nextTurn = async () => {
      throw new Error('too late')
    }
    await expect(parseLargeJson(large, { refusesUnstorable: true, nextTurn })).rejects.toThrow('too late')
  })

  test('is refused for the same reasons by the parser that takes no turns', () => {
    expect(() => parseJson(bytesOf('['.repeat(mebi)))).toThrow(InvalidJson)
    expect(parseJson(large)).toBe('x'.repeat(mebi - 2))
  })
})

describe('a small text that the runtime has decoded', () => {
  const read = async (bytes: Uint8Array<ArrayBuffer>) => {
    const text = await new Response(bytes).text()
    try {
      return parseSmallText(text, bytes.length)
    } catch (error) {
      return (error as InvalidJson).reason
    }
  }
  const inQuotes = (...bytes: number[]) => Uint8Array.of(0x22, ...bytes, 0x22)

  test('is refused where bytes of it were not UTF-8', async () => {
    for (const bytes of [
      [0xff],
      [0x80],
      [0xc3],
      [0xe2, 0x82],
      [0xed, 0xa0, 0x80],
      [0xc0, 0xaf],
      [0xff, 0xef, 0xbf, 0xbd],
    ])
      expect([bytes, await read(inQuotes(...bytes))]).toEqual([bytes, 'must be UTF-8'])
  })

  test('is taken where a replacement character was sent', async () => {
    expect(await read(new TextEncoder().encode('{"a":"\ufffd and \ud83d\ude00"}'))).toEqual({
      a: '\ufffd and \ud83d\ude00',
    })
  })

  test('is refused where it is not JSON, or where its escapes cannot be stored', async () => {
    expect(await read(new TextEncoder().encode('{'))).toBe('must be JSON')
    expect(await read(new TextEncoder().encode('"\\u0000"'))).toContain('NUL')
    expect(parseSmallText('"\\u0000"', 8, false)).toBe('\0')
  })
})
