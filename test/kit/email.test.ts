import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { email } from '../../src/http/schema-types.ts'
import { canonicalEmail } from '../../src/kit/email.ts'

describe('a canonical email address', () => {
  test('is the same for all spellings that differ only in case or Unicode composition', () => {
    // Only the lower-case j with a caron has a precomposed code point.
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

  test('is undefined beyond 254 characters, even when the input was shorter', () => {
    expect(canonicalEmail(`${'a'.repeat(242)}@example.com`)).toHaveLength(254)
    expect(canonicalEmail(`${'a'.repeat(243)}@example.com`)).toBeUndefined()
    expect(canonicalEmail(`${'\u0130'.repeat(150)}@example.com`)).toBeUndefined()
  })
})

test('validating an email address of 1 MiB takes no longer per byte than one of 1 KiB', () => {
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
