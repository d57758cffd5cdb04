import { encodeBase64url } from '../kit/base64url.ts'
import { networkOf } from '../kit/client-address.ts'

/** Failed attempts of one source before the first pause. */
export const freeFailures = 9
/**
 * The limit of NIST SP 800-63B-4 §3.2.2 for consecutive failures on an account. Here it is one for each source, and one attempt a
 * day follows it, because an account cannot be recovered in another way.
 */
const maxFailures = 100
const firstPauseS = 30
const longestPauseS = 3_600
const finalPauseS = 86_400

/**
 * How long a source pauses after this many consecutive failures, in seconds: nothing at first, then twice as long after each
 * failure up to an hour, and a day from the hundredth on. A pause admits one attempt when it is over.
 */
export const pauseSeconds = (failures: number): number => {
  if (failures <= freeFailures) return 0
  if (failures >= maxFailures) return finalPauseS
  return Math.min(firstPauseS * 2 ** (failures - freeFailures - 1), longestPauseS)
}

/** The pauses after 1, 2, 3 … failures. The last one also follows every further failure. */
export const pausesS: readonly number[] = Array.from({ length: maxFailures }, (_, index) => pauseSeconds(index + 1))

/**
 * Counted apart. `device` and `network` are known to the account, `session` is one that changes its password, `factor` are second
 * factors, counted for each source of the first one.
 */
export const sourceKinds = ['device', 'network', 'session', 'factor', 'unknown'] as const
export type SourceKind = (typeof sourceKinds)[number]

/** The database stores `name`. */
export type Source = { readonly kind: SourceKind; readonly name: string }

export const unknownSource: Source = { kind: 'unknown', name: 'unknown' }
export const deviceSource = (tokenHash: Uint8Array): Source => ({
  kind: 'device',
  name: `device ${encodeBase64url(tokenHash)}`,
})
export const sessionSource = (sessionId: string): Source => ({ kind: 'session', name: `session ${sessionId}` })
/** For the second step of a sign-in, or of a session that authenticates again. */
export const factorSource = (first: Source): Source => ({ kind: 'factor', name: `factor ${first.name}` })
/** The source of this name. */
export const toSource = (name: string): Source => ({
  kind: sourceKinds.find((kind) => name.startsWith(`${kind} `)) ?? 'unknown',
  name,
})
/** An account is expected in the networks of its live sessions. */
export const networkSource = (address: string): Source => ({
  kind: 'network',
  name: `network ${networkOf(address, { v4: 24, v6: 48 })}`,
})

export type FailureCount = { readonly failures: number; readonly pausedUntilMs: number | null }

export type AdmissionDecision =
  | {
      readonly kind: 'admitted'
      readonly source: Source
      readonly failures: number
      /** The attempt is counted before it is verified, so that only one is made after each pause. */
      readonly mustClaim: boolean
    }
  | { readonly kind: 'paused'; readonly untilMs: number }

/**
 * Whether an attempt is verified, and where it is counted: the first of its sources that does not pause. So a known device is
 * let in while all others pause, and one that fails too often is treated as unknown.
 */
export const decideAdmission = (
  sources: readonly Source[],
  countOf: (source: Source) => FailureCount | undefined,
  nowMs: number,
): AdmissionDecision => {
  let untilMs = Number.POSITIVE_INFINITY
  for (const source of sources) {
    const { failures, pausedUntilMs } = countOf(source) ?? { failures: 0, pausedUntilMs: null }
    if (pausedUntilMs === null || pausedUntilMs <= nowMs)
      return { kind: 'admitted', source, failures, mustClaim: failures > freeFailures }
    untilMs = Math.min(untilMs, pausedUntilMs)
  }
  return { kind: 'paused', untilMs }
}
