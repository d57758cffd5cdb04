import { describe, expect, test } from 'bun:test'
import type { Oracle } from './oracle.ts'
import { report, wrongAllows } from './report.ts'
import { storm } from './storm.ts'

const seconds = Number(process.env['STORM_SECONDS'] ?? 28)

/** The floor of the load, on a busy machine with two cores. */
const expectLoad = ({ counts, removals }: Oracle, forSeconds: number) => {
  expect(counts.checks).toBeGreaterThan(500 * forSeconds)
  expect(removals.length).toBeGreaterThan(5 * forSeconds)
  expect(counts.allows).toBeGreaterThan(counts.checks / 10)
  expect(counts.denies).toBeGreaterThan(counts.checks / 10)
  expect(counts.names).toBeGreaterThan(forSeconds)
  // A question during a change has no single right answer, so most must be outside of one.
  expect(counts.ambiguous).toBeLessThan(counts.checks / 5)
}

describe('three instances under concurrent changes', () => {
  test(
    'give no answer from before an acknowledged change, while instances, Redis and connections are killed, cut and frozen',
    async () => {
      const oracle = await storm({ seconds, faults: true })
      const seen = report(oracle)
      if (process.env['STORM_SECONDS'] !== undefined) console.log(seen)
      expect(oracle.wrong.length === 0 ? '' : seen).toBe('')
      expectLoad(oracle, seconds)
      expect(new Set(oracle.removals.map(({ phase }) => phase)).size).toBeGreaterThan(5)
    },
    (seconds + 60) * 1_000,
  )

  test('give stale allows without acknowledgements, and the oracle finds them', async () => {
    const oracle = await storm({ seconds: 4, faults: false, env: { ACKNOWLEDGEMENTS: 'off' } })
    expect(wrongAllows(oracle).length).toBeGreaterThan(0)
    expectLoad(oracle, 4)
  }, 60_000)
})
