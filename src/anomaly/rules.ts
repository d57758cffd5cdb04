import type { Displaced } from './sessions.ts'
import type { Features } from './window.ts'

/** Why a principal is limited. */
export const reasons = [
  'sign_in.many_accounts',
  'resources.guessed',
  'resources.harvested',
  'session.two_places',
] as const
export type Reason = (typeof reasons)[number]

/** `strength`: how far above the threshold, as a factor. */
export type Suspicion = { readonly reason: Reason; readonly strength: number }

/**
 * The thresholds, for the last minute of a principal and its slots of 5 seconds. They were chosen on the tuning seeds of the trace
 * in test/anomaly.
 */
export const thresholds = {
  /** Accounts whose sign-in failed from one address, on devices that they do not know. */
  failedAccounts: 6,
  /** Failed accounts per account that signed in: offices sign in at once, and some people mistype. */
  failedPerSignedIn: 1.5,
  /** Resources that do not exist or are not visible; the slots in which they came; their least share of all resources. */
  missing: 8,
  missingSlots: 4,
  missingShare: 0.2,
  /** Services work through lists, of which parts may be gone. */
  missingOfKey: 24,
  /** Resources of others that were read, and over how many slots they are spread: people read a page at once, then look at it. */
  resources: 16,
  evenSlots: 6,
  /** In batches: less evenly, but many, through nearly the whole minute, and never as many in a slot as a page has. */
  batchedResources: 32,
  batchedEvenSlots: 4,
  batchedSpanSlots: 11,
  largestBatch: 15,
  /** Of an address without a credential. */
  anonymousResources: 18,
  anonymousSpanSlots: 8,
  anonymousEvenSlots: 3,
  /** Minutes of history from which on a principal is compared with it; how many times its usual figure counts. */
  minutesOfHistory: 2,
  timesUsual: 3,
  /** A service key without a history. */
  resourcesOfKey: 400,
} as const

const ofSignIns = ({ accounts, signedIn }: Features): number =>
  accounts < thresholds.failedPerSignedIn * signedIn ? 0 : accounts / thresholds.failedAccounts

/** The threshold of a principal with a history, by its habit. */
const byHabit = (threshold: number, { minutes }: Features, usual: number): number =>
  minutes < thresholds.minutesOfHistory ? threshold : Math.max(threshold, thresholds.timesUsual * usual)

const ofMissing = (features: Features): number => {
  const { kind, missing, missingSlots, resources, usual } = features
  if (missingSlots < thresholds.missingSlots || missing < thresholds.missingShare * (missing + resources)) return 0
  return missing / byHabit(kind === 'key' ? thresholds.missingOfKey : thresholds.missing, features, usual.missing)
}

const ofResources = (features: Features): number => {
  const { kind, resources, spanSlots, evenSlots, largestSlot, usual } = features
  const over = (threshold: number) => resources / byHabit(threshold, features, usual.resources)
  if (kind === 'key') return over(thresholds.resourcesOfKey)
  if (kind === 'address') {
    const isSpread = spanSlots >= thresholds.anonymousSpanSlots && evenSlots >= thresholds.anonymousEvenSlots
    return isSpread ? over(thresholds.anonymousResources) : 0
  }
  if (evenSlots >= thresholds.evenSlots) return over(thresholds.resources)
  const { batchedEvenSlots, batchedSpanSlots, largestBatch, batchedResources } = thresholds
  const isBatched = evenSlots >= batchedEvenSlots && spanSlots >= batchedSpanSlots && largestSlot <= largestBatch
  return isBatched ? over(batchedResources) : 0
}

/** What the last minute of a principal shows. */
export const judge = (features: Features): readonly Suspicion[] => {
  const found: Suspicion[] = []
  const add = (reason: Reason, strength: number) => {
    if (strength >= 1) found.push({ reason, strength })
  }
  if (features.kind === 'address') add('sign_in.many_accounts', ofSignIns(features))
  add('resources.guessed', ofMissing(features))
  add('resources.harvested', ofResources(features))
  return found
}

/** From this score on another country within the life of a token is enough. */
export const displacedScore = -1.5

/** Whether a session in two countries is used by two: on two devices, in turn, or where its person is hardly ever. */
export const judgePlace = ({ isOtherDevice, switches, score }: Displaced): readonly Suspicion[] =>
  isOtherDevice || switches >= 2 || score >= displacedScore
    ? [{ reason: 'session.two_places', strength: isOtherDevice || switches >= 2 ? 2 : 1 }]
    : []
