import { describe, expect, test } from 'bun:test'
import { judgeRefresh, sessionLife } from '../../src/identity/session-rules.ts'

const now = Date.UTC(2026, 0, 1)
const token = { rotatedAtMs: null, endedAtMs: null, idleExpiresAtMs: now + 1_000, expiresAtMs: now + 2_000 }

describe('a presented refresh token', () => {
  const cases: [string, Partial<{ [K in keyof typeof token]: number | null }>, string][] = [
    ['fresh: rotates', {}, 'rotate'],
    ['rotated this moment: is a retry', { rotatedAtMs: now }, 'repeat'],
    ['rotated as long ago as the grace: is a retry', { rotatedAtMs: now - sessionLife.retryGraceMs }, 'repeat'],
    ['rotated a moment longer ago: is in two hands', { rotatedAtMs: now - sessionLife.retryGraceMs - 1 }, 'reused'],
    ['of an ended session: is over, and no alarm', { rotatedAtMs: 0, endedAtMs: now - 1 }, 'over'],
    ['unused for too long: is over', { idleExpiresAtMs: now }, 'over'],
    ['at the end of the session: is over', { expiresAtMs: now }, 'over'],
  ]
  for (const [name, given, verdict] of cases) {
    test(name, () => expect(judgeRefresh({ ...token, ...given } as typeof token, now)).toBe(verdict as never))
  }
})
