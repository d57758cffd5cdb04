/**
 * `bun run bench:readme`: writes the table of the README from test/bench/results.json, which `bun run bench --json` makes.
 */
import { readFile, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { findingValue, type Report, targetOf } from './report.ts'

export const readmeFile = fileURLToPath(new URL('../../README.md', import.meta.url))
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

const rowsOf = (entry: Entry): string[] => {
  return entry.findings.map((finding) => {
    const target = targetOf(finding)
    const missed = target !== '' && !finding.met ? ', missed' : ''
    return `| ${escaped(finding.what.replace(/^ +/, '– '))} | ${findingValue(finding)} | ${target}${missed} |`
  })
}

/** The text of all scenarios: first what failed, then each figure, its range and its target. */
export const toMarkdown = ({ results }: Report): string =>
  results
    .flatMap((entry) => [
      `**${entry.scenario}**: ${escaped(entry.about)}. ${loadOf(entry)}${errorsOf(entry)}.`,
      '',
      '| what | measured | target |',
      '|---|---|---|',
      ...rowsOf(entry),
      '',
    ])
    .join('\n')

/** The README with that text in its place. */
export const withResults = (readme: string, report: Report): string => {
  const from = readme.indexOf(start)
  const to = readme.indexOf(end)
  if (from < 0 || to < from) throw new Error('The README has no place for the results')
  return `${readme.slice(0, from + start.length)}\n${toMarkdown(report)}\n${readme.slice(to)}`
}

if (import.meta.main) {
  const report = JSON.parse(await readFile(resultsFile, 'utf8')) as Report
  await writeFile(readmeFile, withResults(await readFile(readmeFile, 'utf8'), report))
}
