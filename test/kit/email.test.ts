import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { email } from '../../src/http/schema-types.ts'
import { canonicalEmail } from '../../src/kit/email.ts'

describe('an address as it is stored', () => {
  test('is one for all spellings that differ in case or in how letters are composed', () => {
    // J with a caron has no letter of its own, j with a caron has.
    for (const spelling of ['J\u030can@example.com', 'j\u030can@example.com', '\u01f0AN@EXAMPLE.COM']) {
      expect(canonicalEmail(spelling)).toBe('\u01f0an@example.com')
    }
    const letters = fc.string({ unit: 'grapheme', maxLength: 20 })
    fc.assert(
      fc.property(letters, (text) => {
        const canonical = canonicalEmail(text)
        if (canonical === undefined) return
        const spellings = [canonical, text.normalize('NFD'), text.normalize('NFC'), canonical.normalize('NFD')]
        expect(spellings.map(canonicalEmail)).toEqual(spellings.map(() => canonical))
      }),
      { numRuns: 2_000 },
    )
  })

  test('has 254 characters at most, however many it had before', () => {
    expect(canonicalEmail(`${'a'.repeat(242)}@example.com`)).toHaveLength(254)
    expect(canonicalEmail(`${'a'.repeat(243)}@example.com`)).toBeUndefined()
    expect(canonicalEmail(`${'\u0130'.repeat(150)}@example.com`)).toBeUndefined()
  })
})

test('whether it is an address takes a mebibyte no longer than a kilobyte', () => {
  const pattern = new RegExp(email.pattern ?? '')
  const timeOf = (bytes: number) => {
    const text = `a@${'a.'.repeat(bytes / 2)}`
    const startedMs = performance.now()
    for (let time = 0; time < 10; time += 1) expect(pattern.test(text)).toBe(false)
    return performance.now() - startedMs
  }
  timeOf(1_024)
  // Of a text a thousand times as long.
  expect(timeOf(1_048_576)).toBeLessThan(100 * Math.max(1, timeOf(1_024)))
})
