import { describe, expect, test } from 'bun:test'
import {
  decideAdmission,
  deviceSource,
  type FailureCount,
  networkSource,
  pauseSeconds,
  type Source,
  unknownSource,
} from '../../src/identity/sign-in-rules.ts'

test('nine failures cause no pause; then each doubles it, up to an hour, and the hundredth makes it a day', () => {
  expect([1, 9, 10, 11, 12, 16, 17, 99, 100, 1_000].map(pauseSeconds)).toEqual([
    0, 0, 30, 60, 120, 1_920, 3_600, 3_600, 86_400, 86_400,
  ])
})

test('a patient attacker makes at most 130 attempts on an account in a month', () => {
  const monthS = 30 * 86_400
  let failures = 0
  for (let elapsedS = 0; elapsedS < monthS; elapsedS += pauseSeconds(failures)) failures += 1
  expect(failures).toBeLessThanOrEqual(130)
})

test('a network is 24 bits of an IPv4 address and 48 bits of an IPv6 address', () => {
  const names = ['203.0.113.7', '203.0.113.250', '2001:db8:1:2::3', '2001:db8:1:ffff::', '', 'unknown']
  expect(names.map((address) => networkSource(address).name)).toEqual([
    'network 203.0.113.0/24',
    'network 203.0.113.0/24',
    'network 2001:db8:1::/48',
    'network 2001:db8:1::/48',
    'network ',
    'network unknown',
  ])
})

describe('an attempt', () => {
  const nowMs = 1_000_000
  const device = deviceSource(new Uint8Array(32))
  const network = networkSource('203.0.113.7')
  const pausing = (forMs: number, failures = 12): FailureCount => ({ failures, pausedUntilMs: nowMs + forMs })
  const decide = (sources: readonly Source[], counts: ReadonlyMap<Source, FailureCount>) =>
    decideAdmission(sources, (source) => counts.get(source), nowMs)

  test('without failures is admitted, and not counted before it is verified', () => {
    expect(decide([unknownSource], new Map())).toEqual({
      kind: 'admitted',
      source: unknownSource,
      failures: 0,
      mustClaim: false,
    })
  })

  test('of an unknown source is refused while that pauses, and counted before it is verified once the pause is over', () => {
    expect(decide([unknownSource], new Map([[unknownSource, pausing(1)]]))).toEqual({
      kind: 'paused',
      untilMs: nowMs + 1,
    })
    expect(decide([unknownSource], new Map([[unknownSource, pausing(0)]]))).toMatchObject({
      kind: 'admitted',
      mustClaim: true,
    })
  })

  test('of a known device is admitted while all others pause', () => {
    const counts = new Map([
      [unknownSource, pausing(5)],
      [network, pausing(5)],
    ])
    expect(decide([device, network, unknownSource], counts)).toMatchObject({ kind: 'admitted', source: device })
  })

  test('of a known device that pauses counts as one of its network, then as an unknown one', () => {
    expect(decide([device, network, unknownSource], new Map([[device, pausing(5)]]))).toMatchObject({
      source: network,
    })
    const both = new Map([
      [device, pausing(5)],
      [network, pausing(5)],
    ])
    expect(decide([device, network, unknownSource], both)).toMatchObject({ source: unknownSource })
  })

  test('is refused until the first of its sources has paused for long enough', () => {
    const counts = new Map([
      [device, pausing(9)],
      [network, pausing(3)],
      [unknownSource, pausing(7)],
    ])
    expect(decide([device, network, unknownSource], counts)).toEqual({ kind: 'paused', untilMs: nowMs + 3 })
  })
})
