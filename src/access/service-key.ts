import { Buffer } from 'node:buffer'
import { randomBytes, timingSafeEqual } from 'node:crypto'
import { Fault } from '../fault.ts'
import { decodeBase64url, encodeBase64url } from '../kit/base64url.ts'
import { createNetworkMatch } from '../kit/client-address.ts'
import type { Clock } from '../kit/clock.ts'
import { idFromBytes, idLength, idToBytes } from '../kit/id.ts'
import { sha256 } from '../platform/secrets.ts'
import type { Fact } from './policy/facts/registry.ts'
import type { Scope } from './policy/matrix.ts'
import type { Restrictions } from './policy/restrictions.ts'
import type { Caller, PresentedKey, Service } from './principal.ts'

/** A service key is `vsk_` and the base64url of its id (16 bytes) and its secret (32 bytes). */
export const serviceKeyPrefix = 'vsk_'

const secretLength = 32

/** A new key for an id. The key is shown to its holder once; only the hash of its secret is stored. */
export const makeServiceKey = (id: string): { key: string; secretHash: Uint8Array } => {
  const secret = randomBytes(secretLength)
  const bytes = Buffer.concat([idToBytes(id), secret])
  return { key: serviceKeyPrefix + encodeBase64url(bytes), secretHash: sha256(secret) }
}

/** The id in a presented key and the hash of its secret; undefined where the text is no service key. */
export const readServiceKey = (text: string): PresentedKey | undefined => {
  if (!text.startsWith(serviceKeyPrefix) || text.length > 128) return undefined
  const bytes = decodeBase64url(text.slice(serviceKeyPrefix.length))
  if (bytes?.length !== idLength + secretLength) return undefined
  return { id: idFromBytes(bytes.subarray(0, idLength)), secretHash: sha256(bytes.subarray(idLength)) }
}

/** Compares in constant time. `stored` is base64url, as in the fact. */
export const isSameHash = (presented: Uint8Array, stored: string): boolean => {
  const bytes = Buffer.from(stored, 'base64url')
  return bytes.length === presented.length && timingSafeEqual(bytes, presented)
}

/**
 * Compares secrets in constant time, and a key that was found right for a fact not again: another fact replaces it when the
 * key changes.
 */
export const createSecretCheck = (): ((key: PresentedKey, fact: { readonly secretHash: string }) => boolean) => {
  const right = new WeakMap<object, PresentedKey>()
  return (key, fact) => {
    if (right.get(fact) === key) return true
    if (!isSameHash(key.secretHash, fact.secretHash)) return false
    right.set(fact, key)
    return true
  }
}

/** Whether an address is in the allowed networks of a key. Reads the networks of each fact once. */
export const createNetworkCheck = (): ((
  fact: Pick<Fact['service_key'], 'allowedNetworks'>,
  address: string,
) => boolean) => {
  const matches = new WeakMap<readonly string[], (address: string) => boolean>()
  return ({ allowedNetworks }, address) => {
    if (allowedNetworks === null) return true
    const known = matches.get(allowedNetworks) ?? createNetworkMatch(allowedNetworks)
    matches.set(allowedNetworks, known)
    return known(address)
  }
}

/** Checks services by the facts about key and user. The facts have been loaded; undefined: the id is unknown. */
export const createServiceChecks = ({
  clock,
  onServiceKeyUsed,
}: {
  clock: Clock
  onServiceKeyUsed: (keyId: string) => void
}) => {
  const hasRightSecret = createSecretCheck()
  const isAllowedFrom = createNetworkCheck()
  return {
    /**
     * The service of a key: 401 where the key is not valid, 403 where it is blocked, may not be used from the
     * address or lacks the scope. `scope` undefined: no scope is needed. A caller with a wrong secret gets 401 in every case.
     */
    requireService: (
      key: PresentedKey,
      scope: Scope | undefined,
      fact: Fact['service_key'] | undefined,
      addressOf: () => string,
      restrictions: Restrictions | undefined,
    ): Service => {
      const { id } = key
      // `live`: not revoked.
      if (fact?.live !== true || !hasRightSecret(key, fact)) throw new Fault('identity.not_signed_in')
      if (fact.blocked) throw new Fault('access.blocked', { detail: { keyId: id } })
      if (fact.expiresAtMs !== null && fact.expiresAtMs <= clock.now())
        throw new Fault('service_key.expired', { detail: { keyId: id } })
      if (fact.allowedNetworks !== null) {
        const address = addressOf()
        if (!isAllowedFrom(fact, address))
          throw new Fault('service_key.network_refused', { detail: { keyId: id, address } })
      }
      if (scope !== undefined && !fact.scopes.includes(scope))
        throw new Fault('service_key.scope_missing', { detail: { keyId: id, scope } })
      onServiceKeyUsed(id)
      return { keyId: id, limitPerSecond: fact.limitPerSecond, addressOf, restrictions }
    },

    /** The user for whom a service acts: 403 where there is no active account, or it may not sign in. */
    requireActing: (
      service: Service,
      userId: string,
      account: Fact['account'] | undefined,
      isVerified: boolean,
    ): Caller => {
      if (account?.status !== 'active' || !isVerified)
        throw new Fault('service_key.user_not_active', { detail: { keyId: service.keyId, userId } })
      const { role, plan, limits } = account
      const authenticatedAtMs = Number.NEGATIVE_INFINITY
      const { restrictions } = service
      const noSession = { sessionId: service.keyId, origin: undefined }
      return { userId, ...noSession, role, plan, limits, authenticatedAtMs, service, restrictions }
    },
  }
}
