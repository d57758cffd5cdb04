const dayMs = 86_400_000

/** How long a session lives without use, how long at most, and for how long a repeated refresh is taken for a retry. */
export const sessionLife = { idleMs: 7 * dayMs, absoluteMs: 30 * dayMs, retryGraceMs: 10_000 } as const

export type RefreshVerdict = 'rotate' | 'repeat' | 'reused' | 'over'

/**
 * What a presented refresh token means. `repeat` is a client that did not hear the answer and gets it again; `reused` is
 * a token that two parties hold, so the whole family must end (RFC 9700 §4.14.2); `over` is a session that has ended.
 */
export const judgeRefresh = (
  token: { rotatedAtMs: number | null; endedAtMs: number | null; idleExpiresAtMs: number; expiresAtMs: number },
  nowMs: number,
): RefreshVerdict => {
  if (token.endedAtMs !== null || Math.min(token.idleExpiresAtMs, token.expiresAtMs) <= nowMs) return 'over'
  if (token.rotatedAtMs === null) return 'rotate'
  return nowMs - token.rotatedAtMs <= sessionLife.retryGraceMs ? 'repeat' : 'reused'
}
