import { describe, expect, test } from 'bun:test'
import { Fault } from '../../src/fault.ts'
import { createPasswordRules } from '../../src/identity/password-rules.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'

const email = 'ada.byron@example.com'
const rules = createPasswordRules({ minLength: 8, words: ['Lighthouse'], breached: undefined })

const outcomeOf = async (password: string, by = rules): Promise<string> => {
  try {
    await by.require(password, email, '/password')
    return 'accepted'
  } catch (error) {
    if (error instanceof Fault) return error.code
    throw error
  }
}

describe('a new password', () => {
  const cases: [password: string, outcome: string][] = [
    ['seven green bottles hanging', 'accepted'],
    ['🦊🐙🌵🪐🎻🧭🪁🫧', 'accepted'],
    ['short 7', 'request.invalid'],
    ['password123', 'identity.password_common'],
    ['PASSWORD123', 'identity.password_common'],
    [email, 'identity.password_predictable'],
    ['Ada.Byron1815', 'identity.password_predictable'],
    ['4d4_8yr0n_1815', 'accepted'],
    ['example!example', 'identity.password_predictable'],
    ['velro2026', 'identity.password_predictable'],
    ['V3LR0-v3lr0-!', 'identity.password_predictable'],
    ['lighthouse1', 'identity.password_predictable'],
    // A common password does not become a good one by the name of the service.
    ['velropassword', 'identity.password_predictable'],
    // A good one may contain such a word.
    ['velro shows me green bottles', 'accepted'],
  ]
  for (const [password, outcome] of cases)
    test(`${JSON.stringify(password)} of ${email}: ${outcome}`, async () => {
      expect(await outcomeOf(password)).toBe(outcome)
    })

  test('has the least length of the configuration, in code points', async () => {
    const longer = createPasswordRules({ minLength: 15, words: [], breached: undefined })
    expect(await outcomeOf('fourteen chars', longer)).toBe('request.invalid')
    expect(await outcomeOf('fifteen chars !', longer)).toBe('accepted')
    expect(await outcomeOf('🦊'.repeat(14), longer)).toBe('request.invalid')
  })
})

test('a breached password is refused, one of a service that does not answer is accepted', async () => {
  const deadline = createDeadlines(systemClock)(5_000)
  const asked: string[] = []
  const withAnswer = (answer: boolean | undefined) =>
    createPasswordRules({
      minLength: 8,
      words: [],
      breached: {
        has: async (password) => {
          asked.push(password)
          return answer
        },
      },
    })
  expect(withAnswer(true).refuseBreached('cafe\u0301 au lait', deadline)).rejects.toMatchObject({
    code: 'identity.password_breached',
  })
  await withAnswer(false).refuseBreached('a good one', deadline)
  await withAnswer(undefined).refuseBreached('a good one', deadline)
  // In the form that is hashed.
  expect(asked[0]).toBe('café au lait')
})
