import { decodeBase64url } from '../kit/base64url.ts'
import { isAddress } from '../kit/client-address.ts'
import type { Clock } from '../kit/clock.ts'
import type { Deadline } from '../kit/deadline.ts'
import { storedSpellings } from '../kit/email.ts'
import { sha256 } from '../platform/secrets.ts'
import type { AccountHash } from './account-hash.ts'
import type { DeviceTokens } from './device-tokens.ts'
import type { Device } from './session-opening.ts'
import { deviceSource, networkSource, type Source, type SourceKind, unknownSource } from './sign-in-rules.ts'
import type { AttemptFacts, SignInStore } from './sign-in-store.ts'

type Dependencies = { store: SignInStore; hashOf: AccountHash; deviceTokens: DeviceTokens; clock: Clock }

/** Whether a device is in the network of a live session. Clients without an address have no network in common. */
export const isKnownNetwork = ({ address }: Device, addresses: readonly string[]): boolean =>
  isAddress(address) && addresses.some((known) => networkSource(known).name === networkSource(address).name)

/** Where sign-ins come from. */
export const createSignInSources = ({ store, hashOf, deviceTokens, clock }: Dependencies) => ({
  /** The bytes of a device token that was issued for the account; it may have expired. `isCurrent`: it stays in use. */
  ownToken: (
    accountHash: Uint8Array,
    deviceToken: string | undefined,
  ): { token: Uint8Array | undefined; isCurrent: boolean } => {
    const presented = deviceToken === undefined ? undefined : decodeBase64url(deviceToken)
    const issuedBy = presented && deviceTokens.issuedBy(accountHash, presented)
    return { token: issuedBy === undefined ? undefined : presented, isCurrent: issuedBy === 'current' }
  },

  /** The sources that an attempt may count on, the best known one first, and what is known of the account. One statement. */
  findSources: async (
    deadline: Deadline,
    email: string,
    token: Uint8Array | undefined,
    device: Device,
  ): Promise<{ facts: AttemptFacts; sources: Source[] }> => {
    const deviceHash = token && sha256(token)
    const network = networkSource(device.address)
    const sources = [...(deviceHash ? [deviceSource(deviceHash)] : []), network, unknownSource]
    const facts = await store.findAttemptFacts(deadline, {
      spellings: storedSpellings(email),
      deviceHash,
      accountHash: hashOf(email),
      sources: sources.map(({ name }) => name),
      now: new Date(clock.now()),
    })
    const isKnown: Record<SourceKind, boolean> = {
      device: facts.isKnownDevice,
      network: isKnownNetwork(device, facts.addresses),
      session: false,
      factor: false,
      unknown: true,
    }
    return { facts, sources: sources.filter(({ kind }) => isKnown[kind]) }
  },
})
