import { expect, test } from 'bun:test'
import { guessTimings } from './suite.ts'

test('a test file without a time counts as the mean of its folder, or of all files where its folder has no time', () => {
  const known = {
    version: 1,
    files: { 'test/http/a.test.ts': 3_000, 'test/http/b.test.ts': 1_000, 'test/kit/c.test.ts': 2 },
  }
  const files = ['test/http/a.test.ts', 'test/http/new.test.ts', 'test/kit/new.test.ts', 'test/new/d.test.ts']
  expect(guessTimings(known, files)).toEqual({
    version: 1,
    files: {
      'test/http/a.test.ts': 3_000,
      'test/http/new.test.ts': 2_000,
      'test/kit/new.test.ts': 2,
      'test/new/d.test.ts': 1_334,
    },
  })
  expect(guessTimings({ version: 1, files: {} }, ['test/kit/c.test.ts']).files).toEqual({ 'test/kit/c.test.ts': 0 })
})
