import type { Clock } from '../kit/clock.ts'
import type { PrincipalKind } from './delta.ts'
import type { Finding } from './detector.ts'
import type { Reason } from './rules.ts'
import type { Features } from './window.ts'

/** Factors on limits, by level. The last one blocks. */
export const factors = [1, 0.5, 0.1, 0] as const
export type Level = 0 | 1 | 2 | 3

/** The verdict on a principal, until it expires. */
export type Verdict = {
  readonly kind: PrincipalKind
  readonly principal: number
  readonly reason: Reason
  readonly level: Level
  readonly strength: number
  readonly features: Features
  readonly sinceMs: number
  readonly untilMs: number
}

/** A verdict lasts so long after the last finding, and twice as long with each further verdict on the principal, up to an hour. */
const firstMs = 300_000
const longestMs = 3_600_000
/** A principal that goes on for so long under a verdict gets the next level. */
const escalateMs = 60_000
/** Principals that had a verdict lately. */
const maxPrincipals = 10_000
/** For so long after an operator has lifted a verdict there is no other one: longer than the window, which still has its causes. */
const exemptMs = 120_000

/** Multiples of the threshold from which on a finding is of level 2, and of level 3. */
const secondLevel = 2
const thirdLevel = 4

/**
 * Only an address can be blocked: that refuses no session and no known device. People and service keys are slowed down, because a
 * thief with a stolen token could have the owner blocked.
 */
const highestOf = (kind: PrincipalKind): Level => (kind === 'address' ? 3 : 2)

const levelOf = (kind: PrincipalKind, strength: number): Level => {
  const level = strength >= thirdLevel ? 3 : strength >= secondLevel ? 2 : 1
  return Math.min(level, highestOf(kind)) as Level
}

/** Turns findings into verdicts. Bounded; the principals judged least recently are forgotten. */
export const createVerdicts = (clock: Pick<Clock, 'now'>) => {
  const verdicts = new Map<number, Verdict & { readonly times: number }>()
  const exemptUntilMs = new Map<number, number>()

  const isExempt = (principal: number, nowMs: number): boolean => {
    const untilMs = exemptUntilMs.get(principal)
    if (untilMs !== undefined && untilMs <= nowMs) exemptUntilMs.delete(principal)
    return untilMs !== undefined && untilMs > nowMs
  }

  return {
    /** The verdict, where it is new or stricter than before. */
    add: ({ kind, principal, reason, strength, features }: Finding): Verdict | undefined => {
      const nowMs = clock.now()
      if (isExempt(principal, nowMs)) return undefined
      const earlier = verdicts.get(principal)
      const isActive = earlier !== undefined && earlier.untilMs > nowMs
      const times = earlier === undefined ? 1 : isActive ? earlier.times : earlier.times + 1
      const lastsMs = Math.min(longestMs, firstMs * 2 ** (times - 1))
      const sinceMs = isActive ? earlier.sinceMs : nowMs
      const isStubborn = isActive && nowMs - earlier.sinceMs >= escalateMs * earlier.level
      const least = isActive ? earlier.level : 0
      const next = isStubborn ? Math.min(least + 1, highestOf(kind)) : least
      const level = Math.max(next, levelOf(kind, strength)) as Level
      const verdict = { kind, principal, reason, strength, features, level, sinceMs, untilMs: nowMs + lastsMs, times }
      verdicts.delete(principal)
      verdicts.set(principal, verdict)
      if (verdicts.size > maxPrincipals) verdicts.delete(verdicts.keys().next().value ?? 0)
      return isActive && level === earlier.level ? undefined : verdict
    },
    /** The verdict on a principal that has not expired. */
    find: (principal: number): Verdict | undefined => {
      const found = verdicts.get(principal)
      return found !== undefined && found.untilMs > clock.now() ? found : undefined
    },
    /** An operator lifts it. */
    lift: (principal: number): void => {
      verdicts.delete(principal)
      exemptUntilMs.delete(principal)
      exemptUntilMs.set(principal, clock.now() + exemptMs)
      if (exemptUntilMs.size > maxPrincipals) exemptUntilMs.delete(exemptUntilMs.keys().next().value ?? 0)
    },
    get size() {
      return verdicts.size
    },
  }
}
