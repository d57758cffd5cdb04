import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { email } from '../../src/http/schema-types.ts'
import { canonicalEmail, storedSpellings } from '../../src/kit/email.ts'

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

  test('is the same for an internationalized domain in Unicode, in punycode and in any case or width', () => {
    const same = [
      'anna@b\u00fccher.example',
      'Anna@B\u00dcCHER.example',
      'anna@bu\u0308cher.example',
      'anna@xn--bcher-kva.example',
      'ANNA@XN--BCHER-KVA.EXAMPLE',
      'anna@b\u00fccher\u3002example',
      'anna@\uff42\u00fccher.example',
    ]
    expect(new Set(same.map(canonicalEmail))).toEqual(new Set(['anna@xn--bcher-kva.example']))
    expect(canonicalEmail('anna@stra\u00dfe.example')).toBe('anna@xn--strae-oqa.example')
    expect(canonicalEmail('\u00fcmit@example.com')).toBe('\u00fcmit@example.com')
    expect(canonicalEmail('anna@1.2.3.4')).toBe('anna@1.2.3.4')
    expect(storedSpellings('anna@b\u00fccher.example')).toEqual([
      'anna@xn--bcher-kva.example',
      'anna@b\u00fccher.example',
    ])
  })

  test('is undefined for an invalid domain', () => {
    const domains = ['xn--a.example', 'b\u00fc%63her.example', 'b\u00fc/x.example', '\uff11.\uff12', 'b\u00fc..example']
    const long = `${'\u00fc'.repeat(64)}.example`
    for (const domain of [...domains, long, 'b\u00fccher.example:80', 'a#\u00fc.example', '\u00fc.example\u3002'])
      expect([domain, canonicalEmail(`anna@${domain}`)]).toEqual([domain, undefined])
  })

  test('is undefined with an invisible character anywhere', () => {
    const invisible =
      '\u00ad\u034f\u061c\u115f\u1160\u17b4\u180e\u200b\u200c\u200d\u200e\u2028\u202e\u2060\u2062\u2800\u3164\ufe0f\ufeff\uffa0\u00a0\u3000\u{e0041}\u{1d173}\u0000\u0085\ue000'
    for (const character of invisible) {
      for (const email of [
        `an${character}na@example.com`,
        `anna@exam${character}ple.com`,
        `${character}anna@example.com`,
      ])
        expect([character.codePointAt(0)?.toString(16), canonicalEmail(email)]).toEqual([
          character.codePointAt(0)?.toString(16),
          undefined,
        ])
    }
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
