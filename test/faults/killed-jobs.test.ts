import { expect, test } from 'bun:test'
import { run } from './killed-jobs/run.ts'

test('instances of which one or another is killed (-9) all the time end every order once, and take or refund its price once', async () => {
  const outcome = await run({ jobs: 70, instances: 2, killEveryS: 1.2, leaseS: 4 })
  expect(outcome.wrong).toEqual([])
  // Or this says nothing.
  expect(outcome.takeovers.afterKills).toBeGreaterThan(2)
  const { completed = 0, failed = 0, cancelled = 0 } = outcome.ended
  expect([completed > 20, failed > 0, cancelled > 0]).toEqual([true, true, true])
}, 180_000)
