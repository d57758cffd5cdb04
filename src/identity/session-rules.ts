const dayMs = 86_400_000

/** A session expires after `idleMs` without a refresh, and after `absoluteMs` in any case. */
export const sessionLife = { idleMs: 7 * dayMs, absoluteMs: 30 * dayMs, retryGraceMs: 10_000 } as const

export type RefreshDecision = 'rotate' | 'retry' | 'reused' | 'ended'

/**
 * Decides what a presented refresh token leads to.
 *
 * `rotate`: first use; a successor is issued. `retry`: used again within `retryGraceMs` of its rotation, by a client that
 * lost the response; it gets the same response. `reused`: used again later, so two parties hold it and the session must
 * end (RFC 9700 §4.14.2). `ended`: the session has ended or expired.
 */
export const decideRefresh = (
  token: { rotatedAtMs: number | null; endedAtMs: number | null; idleExpiresAtMs: number; expiresAtMs: number },
  nowMs: number,
): RefreshDecision => {
  if (token.endedAtMs !== null || Math.min(token.idleExpiresAtMs, token.expiresAtMs) <= nowMs) return 'ended'
  if (token.rotatedAtMs === null) return 'rotate'
  return nowMs - token.rotatedAtMs <= sessionLife.retryGraceMs ? 'retry' : 'reused'
}
