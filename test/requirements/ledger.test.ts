import { describe, expect, test } from 'bun:test'
import { readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import * as authentication from './asvs-authentication.ts'
import * as sessions from './asvs-sessions.ts'
import { differences, faultsOf, type Requirement, type Standard, titlesIn } from './ledger.ts'
import * as nist from './nist-800-63b.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const standards: Readonly<Record<string, Standard>> = {
  'OWASP ASVS 5.0.0, V6': authentication,
  'OWASP ASVS 5.0.0, V7': sessions,
  'NIST SP 800-63B-4': nist,
}

/** The files that the suite runs: the tests, and what they import of this folder. */
const suite = (): ReadonlySet<string> => {
  const pending = [...new Bun.Glob('**/*.test.ts').scanSync(root)]
  const seen = new Set<string>()
  for (let file = pending.pop(); file !== undefined; file = pending.pop()) {
    if (seen.has(file)) continue
    seen.add(file)
    const folder = dirname(join(root, file))
    const imported = [
      ...readFileSync(join(root, file), 'utf8').matchAll(/^(?:import|export)\b[^'`;]*?from '(\.[^']+\.ts)'/gm),
    ]
    pending.push(
      ...imported.map(([, path = '']) => relative(root, join(folder, path))).filter((path) => !path.startsWith('..')),
    )
  }
  return seen
}

const files = suite()
const known = new Map<string, ReadonlySet<string>>()
const titlesOf = (file: string): ReadonlySet<string> | undefined => {
  if (!files.has(file)) return undefined
  const titles = known.get(file) ?? titlesIn(readFileSync(join(root, file), 'utf8'))
  known.set(file, titles)
  return titles
}

describe.each(Object.entries(standards))('the ledger of %s', (_name, standard) => {
  test('holds every requirement of the standard once, with its level', () => {
    expect(differences(standard)).toEqual([])
  })

  test('names tests that the suite runs, and a reason at level 3 alone', () => {
    expect(standard.requirements.flatMap((one) => faultsOf(one, titlesOf))).toEqual([])
  })
})

describe('the check of a ledger', () => {
  const titles = (file: string) => (file === 'a.test.ts' ? new Set(['works']) : undefined)
  const faults = (requirement: Requirement) => faultsOf(requirement, titles)

  test('finds a requirement that is missing, doubled, unknown or of another level', () => {
    const of = (id: string, level: 1 | 2 | 3): Requirement => ({ id, level, asks: '', tests: [] })
    const found = (levels: string, ...requirements: Requirement[]) =>
      differences({ shape: { '1.1': levels }, idOf: (section, number) => `${section}.${number}`, requirements })
    expect(found('12', of('1.1.1', 1), of('1.1.2', 2))).toEqual([])
    expect(found('12', of('1.1.1', 1))).toEqual(['1.1.2 of level 2 is missing'])
    expect(found('1', of('1.1.1', 1), of('1.1.1', 1))).toEqual(['1.1.1 of level 1 is there twice'])
    expect(found('1', of('1.1.1', 3))).toEqual([
      '1.1.1 of level 1 is missing',
      '1.1.1 of level 3 is not in the standard',
    ])
  })

  test('refuses a reason at level 1 or 2, and a test that does not exist', () => {
    const reason = 'This cannot happen here, because there is no such feature.'
    expect(faults({ id: '1', level: 3, asks: '', reason })).toEqual([])
    expect(faults({ id: '1', level: 3, asks: '', reason: 'Not here.' })).toHaveLength(1)
    for (const level of [1, 2] as const) expect(faults({ id: '1', level, asks: '', reason })).toHaveLength(1)
    expect(faults({ id: '1', level: 1, asks: '', tests: ['a.test.ts: works'] })).toEqual([])
    for (const tests of [[], ['a.test.ts: does not'], ['b.test.ts: works'], ['works']])
      expect(faults({ id: '1', level: 1, asks: '', tests })).toHaveLength(1)
  })

  test('knows the titles of tests in every form, and leaves out those that are always skipped', () => {
    const source = [
      "test('plain', () => {})",
      "  test(\n    'on a line of its own',",
      "test.each([1, (2)])('of each %d', () => {})",
      // biome-ignore lint/suspicious/noTemplateCurlyInString: as it is written in a source
      'test(`with ${value} in it`, () => {})',
      "test.skipIf(!have('x'))('where it can run', () => {})",
      "test('with an \\' in it', () => {})",
      "test.skip('never', () => {})",
      "test.todo('later')",
      "expression.test('not a test')",
      "describe('a group', () => {})",
    ].join('\n')
    expect([...titlesIn(source)]).toEqual([
      'plain',
      'on a line of its own',
      'of each %d',
      // biome-ignore lint/suspicious/noTemplateCurlyInString: as it is written in the source
      'with ${value} in it',
      'where it can run',
      "with an ' in it",
    ])
  })
})
