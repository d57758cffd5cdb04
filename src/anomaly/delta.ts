/*
 * What an instance saw of principals within a tick. Deltas of the instance and of the others go the same way, so that all
 * instances have the same windows.
 */

export const principalKinds = ['user', 'key', 'address'] as const
export type PrincipalKind = (typeof principalKinds)[number]

/** How a request ended. `failed`: an attempt to authenticate that was wrong. */
export const outcomes = ['ok', 'denied', 'not_found', 'unauthorized', 'failed', 'signed_in'] as const
export type Outcome = (typeof outcomes)[number]

/** One request as an instance sees it. Each number but `atMs` is a hash or a code; 0: not known. */
export type Observation = {
  atMs: number
  kind: PrincipalKind
  principal: number
  outcome: Outcome
  /** The resource that the request names, or the account that an attempt to authenticate names. */
  subject: number
  /** Of an attempt to authenticate: whether there is an account of that name. */
  accountExists: boolean
  /** Of an attempt to authenticate: whether it comes from a device or a network that the account knows. */
  isKnown: boolean
  session: number
  network: number
  country: number
  device: number
}

/** Where a session was used within the tick. */
export type SeenPlace = {
  readonly session: number
  readonly network: number
  readonly country: number
  readonly device: number
  firstMs: number
  lastMs: number
}

export type Delta = {
  readonly kind: PrincipalKind
  readonly principal: number
  requests: number
  denied: number
  unauthorized: number
  /** Attempts to authenticate that failed, from devices that the account does not know; and those of them without an account. */
  failed: number
  failedUnknown: number
  /** Places in the sketches; each counts once. */
  readonly resources: number[]
  readonly missing: number[]
  /** Accounts whose sign-in failed, and accounts that signed in. */
  readonly accounts: number[]
  readonly signedIn: number[]
  readonly places: SeenPlace[]
}

export const newDelta = (kind: PrincipalKind, principal: number): Delta => ({
  kind,
  principal,
  requests: 0,
  denied: 0,
  unauthorized: 0,
  failed: 0,
  failedUnknown: 0,
  resources: [],
  missing: [],
  accounts: [],
  signedIn: [],
  places: [],
})

/** Bits of a sketch. Linear counting (Whang et al. 1990) is within a few percent up to about three times that many values. */
export const sketchBits = 256
const maxPlaces = 4

const addOnce = (to: number[], value: number) => {
  const place = value % sketchBits
  if (!to.includes(place)) to.push(place)
}

export const isSamePlace = (one: Omit<SeenPlace, 'firstMs' | 'lastMs'>, other: Omit<SeenPlace, 'firstMs' | 'lastMs'>) =>
  one.session === other.session &&
  one.country === other.country &&
  one.device === other.device &&
  one.network === other.network

const addPlace = (delta: Delta, seen: Observation) => {
  const known = delta.places.find((place) => isSamePlace(place, seen))
  if (known !== undefined) {
    known.lastMs = seen.atMs
    return
  }
  if (delta.places.length >= maxPlaces) return
  const { session, network, country, device, atMs } = seen
  delta.places.push({ session, network, country, device, firstMs: atMs, lastMs: atMs })
}

export const addObservation = (delta: Delta, seen: Observation): void => {
  const { outcome, subject } = seen
  if (outcome === 'failed') {
    if (seen.isKnown) return
    delta.failed += 1
    if (!seen.accountExists) delta.failedUnknown += 1
    if (subject !== 0) addOnce(delta.accounts, subject)
    return
  }
  if (outcome === 'signed_in') {
    if (subject !== 0) addOnce(delta.signedIn, subject)
    return
  }
  delta.requests += 1
  if (outcome === 'denied') delta.denied += 1
  if (outcome === 'unauthorized') delta.unauthorized += 1
  if (subject !== 0) addOnce(outcome === 'not_found' ? delta.missing : delta.resources, subject)
  if (seen.session !== 0 && seen.country !== 0) addPlace(delta, seen)
}
