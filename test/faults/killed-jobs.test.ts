import { expect, test } from 'bun:test'
import { run } from './killed-jobs/run.ts'

test('instances that are killed (-9) at random end every order once, and settle or refund its price once', async () => {
  const outcome = await run({ jobs: 70, instances: 2, killEveryS: 1.2, leaseS: 4 })
  expect(outcome.violations).toEqual([])
  // Guards the test: kills must have caused takeovers.
  expect(outcome.takeovers.afterKills).toBeGreaterThan(2)
  const { completed = 0, failed = 0, cancelled = 0 } = outcome.ended
  expect([completed > 20, failed > 0, cancelled > 0]).toEqual([true, true, true])
}, 180_000)
