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
  /** Resources of others that were read; the slots in which they came; the largest share of one slot: people read by pages. */
  resources: 16,
  activeSlots: 7,
  largestShare: 0.2,
  /** Of an address without a credential. */
  anonymousResources: 18,
  anonymousSlots: 5,
  anonymousShare: 0.35,
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
  const { kind, resources, activeSlots, largestSlot, usual } = features
  if (kind === 'key') return resources / byHabit(thresholds.resourcesOfKey, features, usual.resources)
  const isAnonymous = kind === 'address'
  const slots = isAnonymous ? thresholds.anonymousSlots : thresholds.activeSlots
  const share = isAnonymous ? thresholds.anonymousShare : thresholds.largestShare
  if (activeSlots < slots || largestSlot > share * resources) return 0
  const threshold = isAnonymous ? thresholds.anonymousResources : thresholds.resources
  return resources / byHabit(threshold, features, usual.resources)
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
