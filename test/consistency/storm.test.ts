import { describe, expect, test } from 'bun:test'
import type { Witness } from './oracle.ts'
import { report, wrongAllows } from './report.ts'
import { storm } from './storm.ts'

const seconds = Number(process.env['STORM_SECONDS'] ?? 28)

/** That it was a storm, on a machine with two cores and other things to do as well. */
const expectLoad = ({ counts, removals }: Witness, forSeconds: number) => {
  expect(counts.checks).toBeGreaterThan(500 * forSeconds)
  expect(removals.length).toBeGreaterThan(5 * forSeconds)
  expect(counts.allows).toBeGreaterThan(counts.checks / 10)
  expect(counts.denies).toBeGreaterThan(counts.checks / 10)
  // Else the judge would have nothing to say.
  expect(counts.either).toBeLessThan(counts.checks / 5)
}

describe('three instances, everything changing', () => {
  test(
    'no answer is given on facts that a call has changed that was answered, whatever is killed, cut or frozen meanwhile',
    async () => {
      const witness = await storm({ seconds, faults: true })
      const seen = report(witness)
      if (process.env['STORM_SECONDS'] !== undefined) console.log(seen)
      expect(witness.wrong.length === 0 ? '' : seen).toBe('')
      expectLoad(witness, seconds)
      expect(new Set(witness.removals.map(({ phase }) => phase)).size).toBeGreaterThan(5)
    },
    (seconds + 60) * 1_000,
  )

  test('without acknowledgements such answers are given, and found', async () => {
    const witness = await storm({ seconds: 4, faults: false, env: { ACKNOWLEDGEMENTS: 'off' } })
    expect(wrongAllows(witness).length).toBeGreaterThan(0)
    expectLoad(witness, 4)
  }, 60_000)
})
