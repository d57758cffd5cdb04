/**
 * A requirement of a standard and how Velro shows that it is met.
 *
 * `level` is the lowest level of the standard that asks for it. `asks` says it in our words, the standard decides. `tests` names
 * tests of this folder as `FILE: TITLE`. `reason` stands in their place at level 3 alone, where the requirement is for a feature
 * that does not exist here or for somebody other than the service.
 */
export type Requirement = {
  readonly id: string
  readonly level: 1 | 2 | 3
  readonly asks: string
} & ({ readonly tests: readonly string[] } | { readonly reason: string })

/** The levels of the requirements of each section, in their order: `122` is three requirements, the first of level 1. */
export type Shape = Readonly<Record<string, string>>

/** A standard: the id of a requirement is made of its section and its number in there. */
export type Standard = {
  readonly shape: Shape
  readonly idOf: (section: string, number: number) => string
  readonly requirements: readonly Requirement[]
}

/** How the requirements differ from the shape of their standard: missing, unknown, doubled, or of another level. */
export const differences = ({ shape, idOf, requirements }: Standard): string[] => {
  const expected = Object.entries(shape).flatMap(([section, levels]) =>
    [...levels].map((level, index) => `${idOf(section, index + 1)} of level ${level}`),
  )
  const found = requirements.map(({ id, level }) => `${id} of level ${level}`)
  return [
    ...expected.filter((one) => !found.includes(one)).map((one) => `${one} is missing`),
    ...found.filter((one) => !expected.includes(one)).map((one) => `${one} is not in the standard`),
    ...found.filter((one, index) => found.indexOf(one) < index).map((one) => `${one} is there twice`),
  ]
}

/** What is wrong with the evidence of a requirement. `titlesOf` returns the tests of a file that the suite runs. */
export const faultsOf = (
  requirement: Requirement,
  titlesOf: (file: string) => ReadonlySet<string> | undefined,
): string[] => {
  const { id, level } = requirement
  if ('reason' in requirement) {
    if (level < 3) return [`${id} of level ${level} has a reason in place of a test`]
    return requirement.reason.length < 40 ? [`${id} has no reason that explains it`] : []
  }
  if (requirement.tests.length === 0) return [`${id} has no test`]
  return requirement.tests.flatMap((test) => {
    const [, file = '', title = ''] = /^(\S+\.ts): (.+)$/s.exec(test) ?? []
    const titles = titlesOf(file)
    if (titles === undefined) return [`${id} names ${file || test}, which the suite does not run`]
    return titles.has(title) ? [] : [`${id} names a test that ${file} does not have: ${title}`]
  })
}

const call =
  /(?<![\w.])(?:test|it)((?:\.\w+(?:\([^()]*(?:\([^()]*\)[^()]*)*\))?)*)\(\s*(?:'((?:\\.|[^'\\])*)'|`((?:\\.|[^`\\])*)`)/g

/** The titles of the tests in a source, as they are written there. A test that is always skipped does not count. */
export const titlesIn = (source: string): ReadonlySet<string> =>
  new Set(
    [...source.matchAll(call)]
      .filter(([, modifiers = '']) => !/\.(?:skip|todo)\b/.test(modifiers))
      .map(([, , quoted, template]) => (quoted ?? template ?? '').replaceAll(/\\(['`])/g, '$1')),
  )
