/**
 * `bun run bench:readme`: writes test/bench/results.md, and into the README which targets are met, from
 * test/bench/results.json, which `bun run bench --json` makes.
 */
import { readFile, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { findingValue, type Report, targetOf } from './report.ts'

export const readmeFile = fileURLToPath(new URL('../../README.md', import.meta.url))
export const resultsTextFile = fileURLToPath(new URL('./results.md', import.meta.url))
export const resultsFile = fileURLToPath(new URL('./results.json', import.meta.url))

const [start, end] = ['<!-- bun run bench:readme writes this -->\n', '<!-- until here -->']

type Entry = Report['results'][number]

const escaped = (text: string) => text.replaceAll('|', '\\|')

const errorsOf = ({ sides }: Entry): string => {
  const failed = sides.flatMap(({ name, errors }) =>
    Object.entries(errors).map(([what, count]) => `${count} × ${what} (${name})`),
  )
  const stale = sides.reduce((total, side) => total + side.staleAllows, 0)
  const judged = sides.reduce((total, side) => total + side.judged, 0)
  const all = [
    ...(failed.length > 0 ? [`**errors: ${failed.join(', ')}**`] : ['No errors']),
    ...(judged > 0 ? [`${stale} stale allows of ${judged.toLocaleString('en')} answers that had to be no`] : []),
  ]
  return all.join('; ')
}

/** Beside other work of the machine figures are lower, and ratios less sure. */
const loadOf = ({ loadAverage }: Entry): string =>
  loadAverage === undefined ? '' : `Load average before it ${loadAverage.toFixed(1)}. `

type Finding = Entry['findings'][number]

const hasTarget = (finding: Finding): boolean => targetOf(finding) !== ''

const cellsOf = (finding: Finding): string => {
  const missed = hasTarget(finding) && !finding.met ? ', missed' : ''
  return `${findingValue(finding)} | ${targetOf(finding)}${missed} |`
}

/** The text of all scenarios: first what failed, then each figure, its range and its target. */
export const toText = ({ results }: Report): string =>
  [
    '# Results of the benchmarks',
    '',
    '`bun run bench:readme` writes this file from results.json. Medians, and the ranges of all runs, on two shared cores with the',
    'load generator and Postgres beside them. Where other work ran too, the load average before a scenario says how much.',
    '',
    ...results.flatMap((entry) => [
      `## ${entry.scenario}`,
      '',
      `${escaped(entry.about)}. ${loadOf(entry)}${errorsOf(entry)}.`,
      '',
      '| what | measured | target |',
      '|---|---|---|',
      ...entry.findings.map((finding) => `| ${escaped(finding.what.replace(/^ +/, '– '))} | ${cellsOf(finding)}`),
      '',
    ]),
  ].join('\n')

/** A finding that begins with blanks is about the one before it that does not. */
const wholeName = (findings: readonly Finding[], at: number): string => {
  const { what } = findings[at] ?? { what: '' }
  if (!what.startsWith(' ')) return what
  const parent = findings.slice(0, at).findLast((finding) => !finding.what.startsWith(' '))
  const subject = parent?.what.split(':')[0]
  return subject === undefined ? what.trim() : `${subject}: ${what.trim()}`
}

/** What the README shows: a row for each scenario with targets, with the figures that miss theirs and what failed. */
export const toSummary = ({ results }: Report): string =>
  [
    '| scenario | targets met | missed |',
    '|---|---|---|',
    ...results.flatMap((entry) => {
      const { findings } = entry
      const judged = findings.filter(hasTarget)
      if (judged.length === 0) return []
      const missed = findings.flatMap((finding, at) =>
        hasTarget(finding) && !finding.met
          ? [`${wholeName(findings, at)} ${findingValue(finding)}, target ${targetOf(finding)}`]
          : [],
      )
      const errors = errorsOf(entry).startsWith('**') ? [errorsOf(entry)] : []
      const met = `${judged.length - missed.length} of ${judged.length}`
      return [`| ${entry.scenario} | ${met} | ${escaped([...missed, ...errors].join('; '))} |`]
    }),
    '',
  ].join('\n')

/** The README with that summary in its place. */
export const withSummary = (readme: string, report: Report): string => {
  const from = readme.indexOf(start)
  const to = readme.indexOf(end)
  if (from < 0 || to < from) throw new Error('The README has no place for the results')
  return `${readme.slice(0, from + start.length)}\n${toSummary(report)}\n${readme.slice(to)}`
}

if (import.meta.main) {
  const report = JSON.parse(await readFile(resultsFile, 'utf8')) as Report
  await writeFile(readmeFile, withSummary(await readFile(readmeFile, 'utf8'), report))
  await writeFile(resultsTextFile, toText(report))
}
