import { describe, expect, test } from 'bun:test'
import { Value } from '@sinclair/typebox/value'
import { catalogue, extensionsOf, type FaultCode } from '../../src/fault.ts'
import { describeInputError, patternWords, toInputProblems } from '../../src/http/input-errors.ts'
import { closed, email, id, oneOf, pageQuery, t, text, timestamp } from '../../src/http/schema-types.ts'

const input = closed({
  id: id('An id'),
  email,
  name: text(1, 100),
  note: text(0, 5),
  kind: oneOf(['image', 'video']),
  count: t.Integer({ minimum: 1, maximum: 100 }),
  least: t.Integer({ minimum: 1 }),
  share: t.Number(),
  enabled: t.Boolean(),
  at: timestamp(),
  tags: t.Array(t.String(), { minItems: 1, maxItems: 3, uniqueItems: true }),
  parent: t.Union([t.Null(), id('A parent')]),
  limit: pageQuery.limit,
})

const good = {
  id: '01890000-0000-7000-8000-000000000000',
  email: 'ada@example.com',
  name: 'Ada',
  note: '',
  kind: 'image',
  count: 1,
  least: 1,
  share: 0.5,
  enabled: true,
  at: '2030-01-31T12:00:00Z',
  tags: ['a'],
  parent: null,
  limit: '20',
}

const detailsOf = (value: unknown): Record<string, string> => {
  return Object.fromEntries(
    toInputProblems('body', Value.Errors(input, value)).map(({ pointer, detail }) => [pointer, detail]),
  )
}

describe('the message about one field of the input', () => {
  const cases: [field: string, value: unknown, detail: string][] = [
    ['id', 'ABC', 'must be a UUID in lower case'],
    ['email', 'ada@', 'must be an e-mail address'],
    ['name', ' ', 'must be text of 1 to 100 characters, not only white space'],
    ['name', 'x'.repeat(101), 'must be text of 1 to 100 characters, not only white space'],
    ['note', 'x'.repeat(6), 'must be text of at most 5 characters'],
    ['kind', 'film', 'must be one of image, video'],
    ['count', 0, 'must be a whole number from 1 to 100'],
    ['count', 1.5, 'must be a whole number from 1 to 100'],
    ['least', 0, 'must be a whole number of at least 1'],
    ['share', 'x', 'must be a number'],
    ['enabled', 1, 'must be true or false'],
    ['tags', [], 'must be a list of 1 to 3 items, none of them twice'],
    ['parent', 'x', 'must be null or a UUID in lower case'],
    ['limit', '0x10', 'must be a whole number from 1 to 100'],
    ['limit', 5, 'must be a whole number from 1 to 100'],
  ]
  for (const [field, value, detail] of cases) {
    test(`${field}: ${JSON.stringify(value).slice(0, 40)}`, () => {
      expect(detailsOf({ ...good, [field]: value })).toEqual({ [`/${field}`]: detail })
    })
  }

  test('a missing field is required', () => {
    const { name, ...rest } = good
    expect([name, detailsOf(rest)]).toEqual(['Ada', { '/name': 'is required' }])
  })

  test('an unknown field is not a field of the request', () => {
    expect(detailsOf({ ...good, extra: 1 })).toEqual({ '/extra': 'is not a field of this request' })
  })

  test('an error without a schema still says something', () => {
    expect(describeInputError({})).toBe('must be a value that this field accepts')
  })

  test('a body with many errors reports the first 20', () => {
    const value = Object.fromEntries(Array.from({ length: 50 }, (_, index) => [`extra${index}`, 1]))
    expect(Object.keys(detailsOf({ ...good, ...value }))).toHaveLength(20)
  })

  test('a pointer repeats at most 256 characters of the names that a client chose', () => {
    const pointers = Object.keys(detailsOf({ ...good, ['x'.repeat(100_000)]: 1 }))
    expect(pointers).toEqual([`/${'x'.repeat(255)}`])
  })

  test('no message shows a regular expression', () => {
    for (const words of Object.values(patternWords)) expect(words).not.toMatch(/[\\^$*[\]{}]/)
  })
})

test('every placeholder in a message of the catalogue is an extension member of its code', () => {
  for (const [code, { message }] of Object.entries(catalogue)) {
    const names = [...message.matchAll(/\{(\w+)\}/g)].map(([, name]) => name)
    const members = Object.keys(extensionsOf(code as FaultCode))
    expect([code, names.filter((name) => name === undefined || !members.includes(name))]).toEqual([code, []])
  }
})
