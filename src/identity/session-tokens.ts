import type { Claims, TokenClaims } from '../access/principal.ts'
import { Fault } from '../fault.ts'
import { decodeBase64url, encodeBase64url } from '../kit/base64url.ts'
import type { Clock } from '../kit/clock.ts'
import type { MaybePromise } from '../kit/maybe-promise.ts'
import { createTtlMap } from '../kit/ttl-map.ts'
import type { Generation, Secrets } from '../platform/secrets.ts'
import { signAccessToken, type TokenPolicy, verifyAccessToken } from '../platform/tokens.ts'
import type { TokenResponse } from './model.ts'
import { sessionLife } from './session-rules.ts'
import type { SigningKeys } from './signing-keys.ts'
import type { UserRow } from './store.ts'
import { createTokenDigest, createTokenScreening } from './token-screening.ts'
import type { UsedToken } from './token-use-store.ts'
import { toUser } from './users/view.ts'

export const refreshTokenLength = 32

/** For clocks that differ. */
const usesMarginMs = 60_000

type Dependencies = {
  keys: SigningKeys
  secrets: Secrets
  policy: TokenPolicy
  clock: Clock
  /** Bound of the cache of verified access tokens, in entries. */
  maxCachedTokens: number
  /** Called for every sign-in and refresh just before it is answered; must not throw. */
  onIssued?: (claims: Claims) => void
  /** Called when this instance sees a token that is not in its cache; must not throw. */
  onFirstUse?: (use: UsedToken) => void
}

/** A refresh token that replaces another, and the secret that derived it. */
export type Successor = { readonly token: Uint8Array; readonly by: Generation }
export type Successors = readonly [Successor, ...Successor[]]

/** The access and refresh tokens of sessions. Stateless but for a cache of verified access tokens. */
export const createSessionTokens = ({
  keys,
  secrets,
  policy,
  clock,
  maxCachedTokens,
  onIssued = () => {},
  onFirstUse = () => {},
}: Dependencies) => {
  const accessTokenIdOf = (refreshToken: Uint8Array, by: Generation = 'current'): string =>
    encodeBase64url(secrets.derive('token-id', refreshToken, by)).slice(0, 22)

  const digests = secrets.generations.map((by) => createTokenDigest(secrets, by))
  const screening = createTokenScreening(clock, digests)

  const verified = createTtlMap<TokenClaims>({ clock, maxEntries: maxCachedTokens, ttlMs: policy.ttlMs, jitter: 0 })

  const requireUnexpired = (claims: TokenClaims): TokenClaims => {
    if (claims.expiresAtMs <= clock.now()) throw new Fault('identity.not_signed_in')
    return claims
  }

  const verifyAndCache = async (token: string, beforeVerifying: () => void): Promise<TokenClaims> => {
    beforeVerifying()
    const found = await verifyAccessToken(token, policy, clock, keys.find, screening)
    if (found === undefined) throw new Fault('identity.not_signed_in')
    const { userId, sessionId, tokenId } = found
    const claims = { userId, sessionId, expiresAtMs: found.expiresAtS * 1_000 }
    // Later uses decide nothing: a refresh token is not retried so long after its rotation.
    if (clock.now() - found.issuedAtS * 1_000 <= sessionLife.lostResponseMs + usesMarginMs)
      onFirstUse({ sessionId, tokenId })
    verified.set(token, claims)
    return requireUnexpired(claims)
  }

  return {
    /**
     * The claims of a bearer token whose signature is valid and which has not expired. Throws `identity.not_signed_in`.
     * Does not check that the session is still live. A token is verified once and then served from the cache;
     * `beforeVerifying` is called before that and may throw.
     */
    claimsOf: (token: string, beforeVerifying: () => void = () => {}): MaybePromise<TokenClaims> => {
      // Its own expiry counts, not that of the entry.
      const cached = verified.get(token, Number.NEGATIVE_INFINITY)
      return cached.kind === 'hit' ? requireUnexpired(cached.value) : verifyAndCache(token, beforeVerifying)
    },

    /**
     * Deterministic: the same arguments give the same response, so a retried refresh gets the one that was lost. `by` is the
     * secret that derived the refresh token.
     */
    issue: async (
      user: UserRow,
      sessionId: string,
      refreshToken: Uint8Array,
      issuedAtMs: number,
      by: Generation = 'current',
    ): Promise<TokenResponse> => {
      onIssued({ userId: user.id, sessionId })
      return {
        access_token: await signAccessToken(
          keys.signer(issuedAtMs),
          policy,
          {
            userId: user.id,
            sessionId,
            tokenId: accessTokenIdOf(refreshToken, by),
            issuedAtS: Math.floor(issuedAtMs / 1_000),
          },
          createTokenDigest(secrets, by),
        ),
        refresh_token: encodeBase64url(refreshToken),
        token_type: 'Bearer',
        expires_in: policy.ttlMs / 1_000,
        user: toUser(user),
      }
    },

    /** The `jti` of the access token that is issued with this refresh token. */
    accessTokenIdOf,

    /** The bytes of a refresh token; throws `identity.refresh_token_invalid` when it is malformed. */
    decodeRefreshToken: (text: string): Uint8Array => {
      const bytes = decodeBase64url(text)
      if (bytes?.length !== refreshTokenLength) throw new Fault('identity.refresh_token_invalid')
      return bytes
    },

    /**
     * The refresh token that replaces `token`, derived with a server key. Deriving instead of storing lets a retry get the
     * same successor while the database holds only hashes. More than one where SECRET_PREVIOUS may have derived it; a new one is
     * the first.
     */
    successorsOf: (token: Uint8Array): Successors => {
      const successorBy = (by: Generation): Successor => ({ token: secrets.derive('refresh-successor', token, by), by })
      const [current = 'current', ...older] = secrets.generations
      return [successorBy(current), ...older.map(successorBy)]
    },
  }
}

export type SessionTokens = ReturnType<typeof createSessionTokens>
