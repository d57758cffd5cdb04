import { expect, test } from 'bun:test'
import { createAnomalyLayer } from '../../src/anomaly/layer.ts'
import type { Reason } from '../../src/anomaly/rules.ts'
import type { Verdict } from '../../src/anomaly/verdicts.ts'
import type { AnomalyMode } from '../../src/config.ts'
import { idOf } from '../access/random.ts'

const slowed = idOf('user', 1)
const other = idOf('user', 2)

const layerIn = (mode: AnomalyMode, reason: Reason = 'resources.guessed') =>
  createAnomalyLayer({
    mode,
    find: (kind, id) => (kind === 'user' && id === slowed ? ({ reason } as Verdict) : undefined),
  })

test('layer 10 says why the limits of a user are lowered, to a service and to the user, and nothing of other users', () => {
  for (const isOwn of [true, false]) {
    expect(layerIn('enforce')(slowed, isOwn)).toEqual({ verdict: 'abstain', reason: 'anomaly.resources_guessed' })
    expect(layerIn('enforce')(other, isOwn)).toEqual({ verdict: 'abstain', reason: 'anomaly.none' })
  }
  expect(layerIn('enforce', 'session.two_places')(slowed, false).reason).toBe('anomaly.session_two_places')
})

test('layer 10 shows a verdict that is only monitored to services, and not to the user it is about', () => {
  expect(layerIn('monitor')(slowed, false).reason).toBe('anomaly.resources_guessed')
  expect(layerIn('monitor')(slowed, true).reason).toBe('anomaly.none')
})

test('layer 10 is skipped where the detection of anomalies is off', () => {
  expect(createAnomalyLayer(undefined)(slowed, false)).toEqual({ verdict: 'skipped', reason: 'anomaly.off' })
})
