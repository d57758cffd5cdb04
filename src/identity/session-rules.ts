const dayMs = 86_400_000

/**
 * A session expires after `idleMs` without a refresh, and after `absoluteMs` in any case. A device is known for `deviceMs`
 * after its last sign-in.
 */
export const sessionLife = {
  deviceMs: 180 * dayMs,
  idleMs: 7 * dayMs,
  absoluteMs: 30 * dayMs,
  retryGraceMs: 10_000,
  lostResponseMs: 300_000,
} as const

export type RefreshDecision = 'rotate' | 'retry' | 'reused' | 'ended'

/**
 * Decides what a presented refresh token leads to.
 *
 * `rotate`: first use; a successor is issued. `retry`: used again by a client that lost the response; it gets the same
 * response. That is assumed within `retryGraceMs` of the rotation, and within `lostResponseMs` while the tokens of
 * that response were not presented. `reused`: otherwise two parties hold the token, so the session must end (RFC 9700 §4.14.2).
 * `ended`: the session has ended or expired.
 */
export const decideRefresh = (
  token: {
    rotatedAtMs: number | null
    endedAtMs: number | null
    idleExpiresAtMs: number
    expiresAtMs: number
    /** Whether neither the successor nor the access token issued with it was presented. Default: unknown, as if used. */
    successorUnused?: boolean | undefined
  },
  nowMs: number,
): RefreshDecision => {
  if (token.endedAtMs !== null || Math.min(token.idleExpiresAtMs, token.expiresAtMs) <= nowMs) return 'ended'
  if (token.rotatedAtMs === null) return 'rotate'
  const ageMs = nowMs - token.rotatedAtMs
  if (ageMs <= sessionLife.retryGraceMs) return 'retry'
  return ageMs <= sessionLife.lostResponseMs && token.successorUnused === true ? 'retry' : 'reused'
}

/** Whether a token of this age is retried only while its successor is unused. */
export const isLateRetry = (rotatedAtMs: number | null, nowMs: number): boolean => {
  const ageMs = rotatedAtMs === null ? 0 : nowMs - rotatedAtMs
  return ageMs > sessionLife.retryGraceMs && ageMs <= sessionLife.lostResponseMs
}
