import { expect, test } from 'bun:test'
import fc from 'fast-check'
import { isDateTime } from '../../src/kit/date-time.ts'

test('every instant from year 1 to 9999 is a date and time as toISOString writes it', () => {
  const min = new Date('0001-01-01T00:00:00.000Z')
  const max = new Date('9999-12-31T23:59:59.999Z')
  fc.assert(
    fc.property(fc.date({ min, max, noInvalidDate: true }), (date) => {
      expect([date.toISOString(), isDateTime(date.toISOString())]).toEqual([date.toISOString(), true])
    }),
  )
})

test('a text of RFC 3339 with a zone is a date and time', () => {
  for (const text of [
    '2030-01-31T12:00:00Z',
    '2030-01-31T12:00:00.1Z',
    '2030-01-31T12:00:00.123456789Z',
    '2030-01-31T23:59:59+23:59',
    '2030-01-31T00:00:00-05:30',
    '2028-02-29T00:00:00Z',
    '2000-02-29T00:00:00Z',
  ]) {
    expect([text, isDateTime(text)]).toEqual([text, true])
  }
})

test('a text that is no date and time, or names one that does not exist, is refused', () => {
  for (const text of [
    '',
    '2030-02-30T00:00:00Z',
    '2029-02-29T00:00:00Z',
    '2100-02-29T00:00:00Z',
    '2030-04-31T00:00:00Z',
    '2030-00-01T00:00:00Z',
    '2030-13-01T00:00:00Z',
    '2030-01-00T00:00:00Z',
    '2030-01-32T00:00:00Z',
    '2030-01-01T24:00:00Z',
    '2030-01-01T12:60:00Z',
    '2030-01-01T23:59:60Z',
    '2030-01-01',
    '2030-01-01T12:00:00',
    '2030-01-01T12:00Z',
    '2030-01-01 12:00:00Z',
    '2030-01-01t12:00:00z',
    '2030-01-01T12:00:00 01:00',
    '2030-01-01T12:00:00+24:00',
    '2030-01-01T12:00:00+0100',
    '2030-01-01T12:00:00.Z',
    '2030-01-01T12:00:00.1234567890Z',
    '"2030-01-01T12:00:00Z"',
    ' 2030-01-01T12:00:00Z',
    '2030-01-01T12:00:00Z\n',
    '20300101T120000Z',
    '+12030-01-01T12:00:00Z',
    '0000-01-01T00:00:00Z',
    '0001-01-01T00:00:00+00:01',
    '9999-12-31T23:59:59-00:01',
    'Tue Jan 01 2030 12:00:00 GMT+0000 (UTC)',
    '01/01/2030',
    '1900000000000',
    'x'.repeat(100_000),
  ]) {
    expect([text.slice(0, 50), isDateTime(text)]).toEqual([text.slice(0, 50), false])
  }
})
