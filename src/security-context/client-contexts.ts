import { Buffer } from 'node:buffer'
import type { SessionOrigin } from '../access/policy/facts/session.ts'
import { isAddress, networkOf } from '../kit/client-address.ts'
import type { Clock } from '../kit/clock.ts'
import { createTtlMap } from '../kit/ttl-map.ts'
import type { Geoip } from '../platform/geoip.ts'
import type { Generation, Secrets } from '../platform/secrets.ts'
import { namesOfUserAgent, type UserAgentNames } from '../platform/user-agent.ts'
import type { ClientContext } from './signals.ts'

/** Bits of an address that are its network, where no database knows the autonomous systems. */
const networkBits = { v4: 24, v6: 48 } as const
const hashLength = 12
const maxUserAgents = 1_000
const userAgentTtlMs = 3_600_000

/** A client as its request shows it. */
export type Client = { readonly address: string; readonly userAgent: string }

/** What a new session records of its client, as columns of its row. */
export type OpenedFrom = {
  readonly country: string | null
  readonly network_hash: Uint8Array | null
  readonly browser: string | null
  readonly platform: string | null
}

/** The places and programs of clients. Keeps the names of the latest User-Agent headers: parsing one takes about 100 µs. */
export const createClientContexts = ({ geoip, secrets, clock }: { geoip: Geoip; secrets: Secrets; clock: Clock }) => {
  const names = createTtlMap<UserAgentNames>({ clock, maxEntries: maxUserAgents, ttlMs: userAgentTtlMs })

  const namesOf = (userAgent: string): UserAgentNames => {
    const known = names.get(userAgent)
    if (known.kind === 'hit') return known.value
    const found = namesOfUserAgent(userAgent)
    names.set(userAgent, found)
    return found
  }

  const networkFor = (address: string): string | null => {
    if (!isAddress(address)) return null
    const system = geoip.systemOf(address)
    return system === null ? networkOf(address, networkBits) : `AS${system}`
  }

  /** Bound to the session, so that equal networks of two sessions do not show. */
  const hash = (sessionId: string, network: string, by: Generation): Uint8Array =>
    secrets.derive('session-network', Buffer.from(`${sessionId} ${network}`), by).subarray(0, hashLength)

  const of = ({ address, userAgent }: Client): ClientContext => {
    const { browser, platform } = namesOf(userAgent)
    return { country: geoip.countryOf(address), network: networkFor(address), browser, platform }
  }

  return {
    countryOf: geoip.countryOf,
    /** When the database of countries was made. */
    countriesAsOf: geoip.builtAt,
    of,

    openedFrom: (sessionId: string, client: Client): OpenedFrom => {
      const { country, network, browser, platform } = of(client)
      return { country, network_hash: network === null ? null : hash(sessionId, network, 'current'), browser, platform }
    },

    /** Whether a network is the one in which the session was opened, also where SECRET has changed since. */
    isNetworkOf: (sessionId: string, { network: own }: SessionOrigin, network: string): boolean =>
      secrets.generations.some((by) => Buffer.from(hash(sessionId, network, by)).toString('base64url') === own),
  }
}

export type ClientContexts = ReturnType<typeof createClientContexts>
