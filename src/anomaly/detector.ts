import {
  addObservation,
  type Delta,
  isSamePlace,
  newDelta,
  type Observation,
  type PrincipalKind,
  type SeenPlace,
} from './delta.ts'
import { createPlaceScores } from './places.ts'
import type { Suspicion } from './rules.ts'
import { createSessionPlaces, type Displaced } from './sessions.ts'
import { add, type Features, featuresOf, learn, newWindow, slide, type Window, windowMs } from './window.ts'

export type Finding = Suspicion & {
  readonly kind: PrincipalKind
  readonly principal: number
  readonly features: Features
}

export type Judges = {
  readonly judge: (features: Features, atMs: number) => readonly Suspicion[]
  readonly judgePlace: (displaced: Displaced) => readonly Suspicion[]
}

/** Places of a session are exchanged once in this time, and at once where they are new. */
const placeEveryMs = 60_000
/** Resources in its window from which on the resources of a principal are exchanged: about a third of the lowest threshold. */
const exchangedResources = 6

/**
 * Finds principals that behave unlike people. Streaming: it keeps a window of a minute and a few figures of each principal, of
 * `maxPrincipals` at most; those seen least recently are forgotten.
 *
 * Instances exchange deltas that are adverse, new, or large. Everything else cannot reach a threshold. So each
 * instance comes to the same findings, a tick apart.
 */
export const createDetector = ({
  judges,
  areNear,
  maxPrincipals = 20_000,
  maxSessions = 20_000,
  maxExchanged = 500,
}: {
  judges: Judges
  areNear: (one: number, other: number) => boolean
  maxPrincipals?: number
  maxSessions?: number
  /** Deltas of one exchange. */
  maxExchanged?: number
}) => {
  const windows = new Map<number, Window>()
  const scores = createPlaceScores()
  const sessions = createSessionPlaces({ scores, areNear, maxSessions })
  let pending = new Map<number, Delta>()
  let received: Delta[] = []
  const sentPlaces = new Map<number, { place: SeenPlace; atMs: number }>()

  const windowOf = (kind: PrincipalKind, principal: number, nowMs: number): Window => {
    const known = windows.get(principal)
    if (known !== undefined) {
      windows.delete(principal)
      windows.set(principal, known)
      return known
    }
    const made = newWindow(kind, nowMs)
    windows.set(principal, made)
    if (windows.size > maxPrincipals) windows.delete(windows.keys().next().value ?? 0)
    return made
  }

  const isNewPlace = (place: SeenPlace, nowMs: number): boolean => {
    const sent = sentPlaces.get(place.session)
    if (sent !== undefined && isSamePlace(sent.place, place) && nowMs - sent.atMs < placeEveryMs)
      return sessions.isContested(place.session)
    sentPlaces.delete(place.session)
    sentPlaces.set(place.session, { place, atMs: nowMs })
    if (sentPlaces.size > maxSessions) sentPlaces.delete(sentPlaces.keys().next().value ?? 0)
    return true
  }

  /** The delta as the others need it; undefined where they do not. */
  const toExchange = (delta: Delta, features: Features, nowMs: number): Delta | undefined => {
    const places = delta.places.filter((place) => isNewPlace(place, nowMs))
    const isAdverse = delta.failed + delta.denied + delta.unauthorized + delta.missing.length > 0
    const isMuch = features.resources >= exchangedResources
    // A sign-in that succeeds speaks for an address where others fail.
    const speaksFor = delta.signedIn.length > 0
    if (!isAdverse && !isMuch && !speaksFor && places.length === 0) return undefined
    return { ...delta, resources: isMuch ? delta.resources : [], places }
  }

  const apply = (delta: Delta, nowMs: number): Finding[] => {
    const { kind, principal } = delta
    const window = windowOf(kind, principal, nowMs)
    slide(window, nowMs)
    learn(window, nowMs)
    add(window, delta, nowMs)
    const displaced = delta.places.flatMap((place) => sessions.add(principal, window.places, place) ?? [])
    if (displaced.length === 0) return []
    const features = featuresOf(window)
    return displaced
      .flatMap((each) => judges.judgePlace(each))
      .map((suspicion) => ({ ...suspicion, kind, principal, features }))
  }

  return {
    observe: (seen: Observation): void => {
      const known = pending.get(seen.principal)
      const delta = known ?? newDelta(seen.kind, seen.principal)
      if (known === undefined) pending.set(seen.principal, delta)
      addObservation(delta, seen)
    },

    /** Deltas of another instance; they count from the next tick on. */
    merge: (deltas: readonly Delta[]): void => {
      received.push(...deltas)
    },

    /** Applies the deltas of this instance and of the others. Returns the findings, and the deltas that the others need. */
    tick: (nowMs: number): { findings: readonly Finding[]; exchanged: readonly Delta[] } => {
      const own = [...pending.values()]
      const deltas = [...own, ...received]
      pending = new Map()
      received = []
      const findings = deltas.flatMap((delta) => apply(delta, nowMs))
      const featuresBy = new Map<number, Features>()
      for (const { principal } of deltas) {
        if (featuresBy.has(principal)) continue
        const window = windows.get(principal)
        if (window === undefined) continue
        const features = featuresOf(window)
        featuresBy.set(principal, features)
        for (const suspicion of judges.judge(features, nowMs))
          findings.push({ ...suspicion, kind: window.kind, principal, features })
      }
      const exchanged = own.flatMap((delta) => {
        const features = featuresBy.get(delta.principal)
        return (features && toExchange(delta, features, nowMs)) ?? []
      })
      return { findings, exchanged: exchanged.slice(0, maxExchanged) }
    },

    get size() {
      return { principals: windows.size, sessions: sessions.size, windowMs }
    },
  }
}

export type Detector = ReturnType<typeof createDetector>
