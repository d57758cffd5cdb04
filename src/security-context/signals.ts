import type { SessionOrigin } from '../access/policy/facts/session.ts'
import { isImpossibleTravel } from './travel.ts'

/** Where a request comes from and with what; null: not known. */
export type ClientContext = {
  /** ISO 3166-1. */
  readonly country: string | null
  /** The autonomous system, or else the first bits of the address. */
  readonly network: string | null
  readonly browser: string | null
  readonly platform: string | null
}

/**
 * What each difference from the session adds to the score of a request. The strongest first.
 *
 * Networks change all day, a person travels, and a page may ask for the view of another platform: none of them alone, nor a new
 * country with its new network, reaches `requiredScore`. A token that is used on another computer differs in several at once.
 */
export const signalWeights = {
  /** No traveller is so fast from the place where the session was last seen. */
  impossible_travel: 60,
  country_changed: 40,
  platform_changed: 30,
  browser_changed: 20,
  network_changed: 10,
} as const

export type Signal = keyof typeof signalWeights
export const signals = Object.keys(signalWeights) as Signal[]

/** From this score on the person has to authenticate again. */
export const requiredScore = 60

export const scoreOf = (found: readonly Signal[]): number =>
  found.reduce((sum, signal) => sum + signalWeights[signal], 0)

const isChanged = (own: string | null, current: string | null): boolean =>
  own !== null && current !== null && own !== current

/**
 * Compares a request with its session. `isOwnNetwork` says whether a network is the one of the session.
 *
 * Guarantee: a value that is missing on one side is no signal. A country in which the person has authenticated is no other country,
 * and there is no travel between two of them.
 */
export const compare = (
  origin: SessionOrigin,
  current: ClientContext,
  isOwnNetwork: (network: string) => boolean,
  nowMs: number,
): Signal[] => {
  const { countries, network, seenCountry, seenAtMs } = origin
  const { country } = current
  const isOwn = (code: string): boolean => countries.includes(code)
  const found: Record<Signal, boolean> = {
    impossible_travel:
      country !== null &&
      seenCountry !== null &&
      !(isOwn(country) && isOwn(seenCountry)) &&
      isImpossibleTravel(seenCountry, country, nowMs - seenAtMs),
    country_changed: country !== null && countries.length > 0 && !isOwn(country),
    platform_changed: isChanged(origin.platform, current.platform),
    browser_changed: isChanged(origin.browser, current.browser),
    network_changed: network !== null && current.network !== null && !isOwnNetwork(current.network),
  }
  return signals.filter((signal) => found[signal])
}
