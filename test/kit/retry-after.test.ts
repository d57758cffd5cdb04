import { expect, test } from 'bun:test'
import { retryAfterMs } from '../../src/kit/retry-after.ts'

const nowMs = Date.UTC(2026, 10, 21, 12)

test('seconds and dates are parsed, dates relative to the clock', () => {
  expect(retryAfterMs('0', nowMs)).toBe(0)
  expect(retryAfterMs(' 120 ', nowMs)).toBe(120_000)
  expect(retryAfterMs('Sat, 21 Nov 2026 12:00:30 GMT', nowMs)).toBe(30_000)
  expect(retryAfterMs('Sat, 21 Nov 2026 11:00:00 GMT', nowMs)).toBe(0)
})

test('a malformed header is treated as absent', () => {
  for (const header of [null, undefined, '', 'soon', '1.5e', '-']) expect(retryAfterMs(header, nowMs)).toBeUndefined()
})
