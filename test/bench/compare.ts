import { findingValue, namesOf, type Report } from './report.ts'

const change = (before: number, after: number): string => {
  const share = (after / before - 1) * 100
  return Number.isFinite(share) ? `${share >= 0 ? '+' : ''}${share.toFixed(1)} %` : ''
}

/**
 * The figures of two runs side by side, for the scenarios that both have. A change counts only where the ranges of the two
 * runs do not touch: those lines are marked.
 */
export const compareReports = (before: Report, after: Report): string => {
  const lines: string[] = []
  for (const { scenario, findings } of after.results) {
    const other = before.results.find((each) => each.scenario === scenario)
    if (other === undefined) continue
    lines.push('', `${scenario}:`)
    const [names, oldNames] = [namesOf(findings), namesOf(other.findings)]
    for (const [index, finding] of findings.entries()) {
      const old = other.findings[oldNames.indexOf(names[index] ?? '')]
      if (old === undefined) continue
      const apart =
        Math.min(...finding.values) > Math.max(...old.values) || Math.max(...finding.values) < Math.min(...old.values)
      lines.push(
        `  ${apart ? '*' : ' '} ${finding.what}: ${findingValue(old)} -> ${findingValue(finding)}  ${change(old.median, finding.median)}`,
      )
    }
  }
  const all = [...after.results, ...before.results].map(({ scenario }) => scenario)
  const single = [...new Set(all)].filter((name) => all.filter((each) => each === name).length === 1)
  if (single.length > 0) lines.push('', `Only in one of the two: ${single.join(', ')}`)
  return `${lines.join('\n').trimStart()}\n`
}
