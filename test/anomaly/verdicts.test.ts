import { expect, test } from 'bun:test'
import type { PrincipalKind } from '../../src/anomaly/delta.ts'
import { createVerdicts, factors } from '../../src/anomaly/verdicts.ts'
import { featuresOf, newWindow } from '../../src/anomaly/window.ts'

const setUp = () => {
  let nowMs = 1_000_000
  const verdicts = createVerdicts({ now: () => nowMs })
  const add = (kind: PrincipalKind, strength: number) =>
    verdicts.add({
      kind,
      principal: 1,
      reason: 'resources.guessed',
      strength,
      features: featuresOf(newWindow(kind, nowMs)),
    })
  const factor = () => {
    const verdict = verdicts.find(1)
    return verdict === undefined ? 1 : factors[verdict.level]
  }
  const pass = (seconds: number) => {
    nowMs += seconds * 1_000
  }
  return { add, factor, pass, verdicts }
}

test('the factor is 0.5 at the threshold, 0.1 at twice of it, and an address is blocked at four times', () => {
  for (const [strength, expected] of [
    [1, 0.5],
    [2, 0.1],
    [4, 0],
  ] as const) {
    const { add, factor } = setUp()
    expect(add('address', strength)).toBeDefined()
    expect(factor()).toBe(expected)
  }
})

test('a person and a service key are slowed down and never blocked', () => {
  for (const kind of ['user', 'key'] as const) {
    const { add, factor, pass } = setUp()
    add(kind, 100)
    for (let minutes = 0; minutes < 20; minutes += 1) {
      pass(60)
      add(kind, 100)
    }
    expect(factor()).toBe(0.1)
  }
})

test('a principal that goes on for a minute under a verdict gets the next one, and nothing is reported in between', () => {
  const { add, factor, pass } = setUp()
  expect(add('address', 1)).toBeDefined()
  pass(30)
  expect(add('address', 1)).toBeUndefined()
  expect(factor()).toBe(0.5)
  pass(30)
  expect(add('address', 1)).toBeDefined()
  expect(factor()).toBe(0.1)
})

test('a verdict expires five minutes after the last finding, and lasts twice as long the next time, up to an hour', () => {
  const { add, factor, pass } = setUp()
  for (const minutes of [5, 10, 20, 40, 60, 60]) {
    add('user', 1)
    pass(minutes * 60 - 1)
    expect(factor()).toBe(0.5)
    pass(1)
    expect(factor()).toBe(1)
  }
})

test('a lifted verdict is gone, there is no other one for two minutes, and a later one begins anew', () => {
  const { add, factor, verdicts, pass } = setUp()
  add('user', 1)
  verdicts.lift(1)
  expect(factor()).toBe(1)
  pass(119)
  expect(add('user', 1)).toBeUndefined()
  pass(1)
  expect(add('user', 1)).toMatchObject({ level: 1 })
})
