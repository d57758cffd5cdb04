import type { BlockedNetworksFact } from './facts/blocked-networks.ts'
import type { ModeFact } from './facts/mode.ts'
import { type Mode, stricterOf } from './modes.ts'

/** What every request depends on: the mode of the service, and the blocked networks. Undefined: the row does not exist. */
export type RestrictionFacts = {
  readonly mode: ModeFact | undefined
  readonly blockedNetworks: BlockedNetworksFact | undefined
}

/** The restrictions in force, of which at least one restricts something. */
export type Restrictions = { readonly mode: Mode; readonly networks: readonly string[] }

/** The mode of this instance alone, which its circuit breakers set. The stricter of it and the mode of the service applies. */
export type OwnMode = { readonly current: Mode }

export const ownNormalMode: OwnMode = Object.freeze({ current: 'normal' })

/** The mode in force. Default deny: without a row the mode is unknown, and the most strict one applies. */
export const modeIn = (fact: ModeFact | undefined, { current }: OwnMode): Mode => {
  const stored = fact === undefined ? 'lockdown' : fact.mode
  return current === 'normal' ? stored : stricterOf(stored, current)
}

const noNetworks: readonly string[] = Object.freeze([])

/** Undefined where nothing is restricted. */
export const restrictionsIn = (
  { mode: fact, blockedNetworks }: RestrictionFacts,
  ownMode: OwnMode,
): Restrictions | undefined => {
  const mode = modeIn(fact, ownMode)
  const networks = blockedNetworks?.networks ?? noNetworks
  return mode === 'normal' && networks.length === 0 ? undefined : { mode, networks }
}
