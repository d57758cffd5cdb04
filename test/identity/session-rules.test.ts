import { describe, expect, test } from 'bun:test'
import { decideRefresh, sessionLife } from '../../src/identity/session-rules.ts'

const now = Date.UTC(2026, 0, 1)
const token = {
  successorUnused: undefined,
  rotatedAtMs: null,
  endedAtMs: null,
  idleExpiresAtMs: now + 1_000,
  expiresAtMs: now + 2_000,
}

describe('a presented refresh token', () => {
  const cases: [string, Partial<{ [K in keyof typeof token]: number | boolean | null }>, string][] = [
    ['rotates on first use', {}, 'rotate'],
    ['is a retry right after its rotation', { rotatedAtMs: now }, 'retry'],
    ['is a retry at the end of the grace period', { rotatedAtMs: now - sessionLife.retryGraceMs }, 'retry'],
    ['is reused one millisecond after the grace', { rotatedAtMs: now - sessionLife.retryGraceMs - 1 }, 'reused'],
    [
      'is a retry for five minutes while its successor is unused',
      { rotatedAtMs: now - sessionLife.lostResponseMs, successorUnused: true },
      'retry',
    ],
    [
      'is reused within five minutes when its successor was used',
      { rotatedAtMs: now - sessionLife.retryGraceMs - 1, successorUnused: false },
      'reused',
    ],
    [
      'is reused after five minutes even if its successor is unused',
      { rotatedAtMs: now - sessionLife.lostResponseMs - 1, successorUnused: true },
      'reused',
    ],
    ['of an ended session is refused without a reuse alarm', { rotatedAtMs: 0, endedAtMs: now - 1 }, 'ended'],
    ['is refused once the session has been idle too long', { idleExpiresAtMs: now }, 'ended'],
    ['is refused once the session has expired', { expiresAtMs: now }, 'ended'],
  ]
  for (const [name, given, decision] of cases) {
    test(name, () => expect(decideRefresh({ ...token, ...given } as typeof token, now)).toBe(decision as never))
  }
})
