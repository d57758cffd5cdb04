import { describe, expect, test } from 'bun:test'
import { withoutWords, wordsOfAddress } from '../../src/identity/password-words.ts'

test('the words of an address are its local part, the parts of that, and the labels of the domain but the last', () => {
  expect(wordsOfAddress('ada.byron+web@maths.example.com').toSorted()).toEqual(
    ['ada.byron+web', 'ada', 'byron', 'web', 'maths', 'example'].toSorted(),
  )
  expect(wordsOfAddress('al@x.de')).toEqual([])
})

describe('the rest of a password without the words', () => {
  const cases: [password: string, words: string[], rest: string | undefined][] = [
    ['correct horse battery', ['velro'], undefined],
    ['Velro2026!', ['velro'], '2026!'],
    ['V3lr0 2026', ['velro'], ' 2026'],
    ['velroVELROvelro', ['velro'], ''],
    ['ada.byron@example.com', ['ada.byron', 'ada', 'byron', 'example'], '@.com'],
    // The longer word first, or "byron" would leave a piece of it.
    ['byronesque', ['byron', 'byronesque'], ''],
    ['4d4.8yron', ['ada'], '.8yron'],
    // Compatibility forms are the same characters.
    ['ｖｅｌｒｏ-1', ['velro'], '-1'],
    ['İstanbul velro', ['velro'], 'i̇stanbul '],
    ['🦊velro🦊', ['velro'], '🦊🦊'],
    // Too short to be looked for.
    ['balance of power', ['al', 'of'], undefined],
    ['', ['velro'], undefined],
  ]
  for (const [password, words, rest] of cases)
    test(`${JSON.stringify(password)} without ${words.join(', ')} is ${JSON.stringify(rest)}`, () => {
      expect(withoutWords(password, words)).toBe(rest)
    })

  test('a password of 1,024 characters takes no noticeable time', () => {
    const words = Array.from({ length: 40 }, (_, index) => `${'a'.repeat(60)}${index}`)
    const startedMs = performance.now()
    withoutWords('a'.repeat(1_024), words)
    expect(performance.now() - startedMs).toBeLessThan(1_000)
  })
})
