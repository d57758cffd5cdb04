import { describe, expect, test } from 'bun:test'
import { type FeatureFlagsFact, featureFlags } from '../../src/access/policy/facts/feature-flags.ts'
import { evaluateFlag, evaluateFlags } from '../../src/flags/features/evaluation.ts'
import { isInRollout } from '../../src/kit/rollout.ts'
import { idOf } from '../access/random.ts'

const ada = idOf('user', 1)
const team = idOf('team', 1)
const person = { userId: ada, plan: 'pro', teams: [team, idOf('team', 2)] } as const

type Flag = FeatureFlagsFact['flags'][number]
const flag = (rest: Partial<Flag> = {}): Flag => ({
  name: 'new-editor',
  enabled: true,
  percent: 0,
  plan_percents: {},
  teams: [],
  users: [],
  except_users: [],
  ...rest,
})
const evaluate = (rest: Partial<Flag>, by: Parameters<typeof evaluateFlag>[2] = person) => {
  const found = evaluateFlag({ flags: [flag(rest)] }, 'new-editor', by)
  return found && `${found.on ? 'on' : 'off'} by ${found.reason}`
}

describe('a feature flag', () => {
  test('is on for named users, members of named teams, and the share of a plan or of all; the first rule that applies decides', () => {
    const everything = { percent: 100, plan_percents: { pro: 100 }, teams: [team], users: [ada] } as const
    expect(evaluate({ ...everything, except_users: [ada], enabled: false })).toBe('off by disabled')
    expect(evaluate({ ...everything, except_users: [ada] })).toBe('off by except_user')
    expect(evaluate({ ...everything, percent: 0, plan_percents: { pro: 0 } })).toBe('on by user')
    expect(evaluate({ ...everything, users: [idOf('user', 2)], percent: 0 })).toBe('on by team')
    expect(evaluate({ plan_percents: { pro: 100 } })).toBe('on by plan_percent')
    expect(evaluate({ percent: 100, plan_percents: { pro: 0 } })).toBe('off by plan_percent')
    expect(evaluate({ percent: 100, plan_percents: { free: 0 } })).toBe('on by percent')
    expect(evaluate({})).toBe('off by percent')
  })

  test('reaches a growing share of users by the stable hash of its name and the user, and of a plan by its own share', () => {
    const users = Array.from({ length: 2_000 }, (_, number) => idOf('user', number))
    for (const percent of [0.5, 10, 50]) {
      for (const userId of users.slice(0, 500)) {
        const expected = isInRollout('new-editor', userId, percent)
        expect(evaluateFlag({ flags: [flag({ percent })] }, 'new-editor', { ...person, userId })?.on).toBe(expected)
      }
    }
    const on = (plan: 'free' | 'pro') =>
      users.filter((userId) =>
        evaluate({ percent: 10, plan_percents: { pro: 60 } }, { userId, plan, teams: [] })?.startsWith('on'),
      )
    expect(on('free').every((userId) => on('pro').includes(userId))).toBeTrue()
    expect(on('free').length / users.length).toBeCloseTo(0.1, 1)
    expect(on('pro').length / users.length).toBeCloseTo(0.6, 1)
  })

  test('that is unknown is reported as such, also by names of members that every object has', () => {
    for (const name of ['other', 'constructor', '__proto__', 'toString']) {
      expect(evaluateFlag({ flags: [flag()] }, name, person)).toBeUndefined()
    }
  })

  test('is in the answer to a person by its name, together with all others', () => {
    const flags = [flag({ name: 'a', percent: 100 }), flag({ name: 'b' }), flag({ name: 'constructor', percent: 100 })]
    expect(evaluateFlags({ flags }, person)).toEqual({ a: true, b: false, ['constructor']: true })
    expect(evaluateFlags({ flags: [] }, person)).toEqual({})
  })

  test('whose stored definition lacks members, as one of another version may, is on for no user by them', () => {
    const read = featureFlags.value?.toFact as (rows: unknown) => FeatureFlagsFact
    const fact = read([
      { name: 'empty', definition: {} },
      { name: 'words', definition: { enabled: 'yes', percent: 100 } },
      { name: 'newer', definition: { enabled: true, percent: 100, regions: ['x'] } },
    ])
    expect(evaluateFlags(fact, person)).toEqual({ empty: false, words: false, newer: true })
  })
})
