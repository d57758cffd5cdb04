import { expect, test } from 'bun:test'
import { readFile } from 'node:fs/promises'
import { readmeFile, resultsFile, resultsTextFile, toSummary, toText, withSummary } from './readme.ts'
import { type Report, type Result, toJson } from './report.ts'

const example = (values: readonly number[], errors: Record<string, number>): Report => {
  const run = { requests: 10, errors, perSecond: 5, p50Ms: 1, p95Ms: 2, p99Ms: 3 }
  const result: Result = {
    scenario: 'check',
    about: 'checks',
    sides: [{ name: 'Velro', runs: [run] }],
    findings: [{ what: 'throughput', unit: 'ratio', values, target: { atLeast: 0.5 } }],
  }
  return { results: [{ ...toJson(result), seconds: 3, machine: 'm', measuredAt: '2026-01-01T00:00:00.000Z' }] }
}

test('the results in the README and in results.md are what the committed measurement gives', async () => {
  const readme = await readFile(readmeFile, 'utf8')
  const report = JSON.parse(await readFile(resultsFile, 'utf8')) as Report
  expect(readme).toBe(withSummary(readme, report))
  expect(await readFile(resultsTextFile, 'utf8')).toBe(toText(report))
})

test('a missed target and an error are named in both texts', () => {
  expect(toText(example([0.6, 0.7], {}))).toContain('| throughput | 0.65 (0.60 to 0.70) | at least 0.50 |')
  expect(toSummary(example([0.6, 0.7], {}))).toContain('| check | 1 of 1 |  |')
  const missed = example([0.4], { 'check: 503': 2 })
  expect(toText(missed)).toContain('at least 0.50, missed')
  expect(toText(missed)).toContain('**errors: 2 × check: 503 (Velro)**')
  expect(toSummary(missed)).toContain(
    '| check | 0 of 1 | throughput 0.40, target at least 0.50; **errors: 2 × check: 503 (Velro)** |',
  )
})
