import { Buffer } from 'node:buffer'
import { timingSafeEqual } from 'node:crypto'
import { type CryptoKey, exportJWK, generateKeyPair, importJWK, type JWK, jwtVerify, SignJWT } from 'jose'
import { decodeBase64url, encodeBase64url } from '../kit/base64url.ts'
import type { Clock } from '../kit/clock.ts'
import { isId } from '../kit/id.ts'

/** The issuer and audience, checked exactly at verification, and the lifetime of a token. */
export type TokenPolicy = { readonly issuer: string; readonly audience: string; readonly ttlMs: number }

export type AccessTokenClaims = {
  readonly userId: string
  readonly sessionId: string
  readonly tokenId: string
  readonly issuedAtS: number
  readonly expiresAtS: number
}

export type SigningKey = { readonly kid: string; readonly privateKey: CryptoKey }
export type VerifyingKey = { readonly kid: string; readonly publicKey: CryptoKey; readonly publicJwk: JWK }

/** A keyed digest that only the instances of this service can compute (HMAC-SHA-256). */
export type Digest = (message: Uint8Array) => Uint8Array

/**
 * Decides whether a signature is worth its verification, which takes about 0.1 ms. `mac` is the one in the token, and is right;
 * undefined for a token of a build that set none.
 */
export type Screening = {
  /** A `mac` is right by one of them. */
  readonly digests: readonly Digest[]
  mayVerify(mac: string | undefined): boolean
  /** The signature of a token with this `mac` was wrong. */
  onForged(mac: string | undefined): void
}

const algorithm = 'EdDSA'
const type = 'at+jwt'

/** A real token has about 450 characters. Longer texts are rejected unparsed. */
const maxLength = 2_048
/** How far the clock of the instance that issued a token may be ahead of ours. */
const maxSkewS = 50

/** Generates an Ed25519 key pair as JWKs (RFC 8037). */
export const generateSigningKey = async (): Promise<{ publicJwk: JWK; privateJwk: JWK }> => {
  const pair = await generateKeyPair(algorithm, { crv: 'Ed25519', extractable: true })
  return { publicJwk: await exportJWK(pair.publicKey), privateJwk: await exportJWK(pair.privateKey) }
}

export const importKey = async (jwk: JWK): Promise<CryptoKey> => {
  const key = await importJWK(jwk, algorithm)
  if (key instanceof Uint8Array) throw new TypeError('Expected an Ed25519 key, not a shared secret')
  return key
}

const headerOf = (kid: string) => ({ alg: algorithm, typ: type, kid })

/** The encoded header of every token signed with this key. */
export const headerSegment = (kid: string): string =>
  encodeBase64url(new TextEncoder().encode(JSON.stringify(headerOf(kid))))

const macLength = 16

/** The claims that differ from token to token; the others are pinned. */
type OwnClaims = Readonly<Partial<Record<'sub' | 'sid' | 'jti' | 'iat' | 'exp' | 'mac', unknown>>>

/**
 * The `mac` of a token: a digest of the claims in which it differs, by which a token that another party made up is refused at
 * once.
 */
export const macOf = ({ sub, sid, jti, iat, exp }: OwnClaims, digest: Digest): string =>
  encodeBase64url(digest(Buffer.from(JSON.stringify([sub, sid, jti, iat, exp]))).subarray(0, macLength))

/**
 * Signs an access token: a JWT with EdDSA (RFC 8037) in the profile of RFC 9068. Deterministic: the same claims under the
 * same key give the same token.
 */
export const signAccessToken = (
  { kid, privateKey }: SigningKey,
  policy: TokenPolicy,
  claims: { userId: string; sessionId: string; tokenId: string; issuedAtS: number },
  digest: Digest,
): Promise<string> => {
  const own = {
    sub: claims.userId,
    sid: claims.sessionId,
    jti: claims.tokenId,
    iat: claims.issuedAtS,
    exp: claims.issuedAtS + policy.ttlMs / 1_000,
  }
  return new SignJWT({ ...own, mac: macOf(own, digest) })
    .setProtectedHeader(headerOf(kid))
    .setIssuer(policy.issuer)
    .setAudience(policy.audience)
    .sign(privateKey)
}

const readClaims = (payload: Uint8Array): OwnClaims | undefined => {
  try {
    const claims: unknown = JSON.parse(Buffer.from(payload).toString())
    return typeof claims === 'object' && claims !== null ? claims : undefined
  } catch {
    return undefined
  }
}

/** Compares in constant time. */
const isSameText = (one: string, other: string): boolean =>
  one.length === other.length && timingSafeEqual(Buffer.from(one), Buffer.from(other))

/**
 * Verifies an access token. Returns its claims, or undefined if it is forged, foreign or expired.
 *
 * Rejected before any asymmetric cryptography: text over 2,048 characters, anything but three segments of canonical base64url, a
 * token past its expiry, a wrong `mac`, a token that `screening` rejects, and a header that is not byte for byte that of our own
 * tokens. This pins algorithm, type and key id and excludes `jku`, `jwk` and `x5u`. `findKey` maps a header segment to its key.
 * A token may have been issued up to 50 s in the future, by an instance whose clock is ahead; its expiry is exact.
 */
export const verifyAccessToken = async (
  token: string,
  policy: TokenPolicy,
  clock: Clock,
  findKey: (headerSegment: string) => Promise<VerifyingKey | undefined>,
  screening: Screening,
): Promise<AccessTokenClaims | undefined> => {
  if (token.length > maxLength) return undefined
  const [header, payload, signature, ...rest] = token.split('.')
  if (header === undefined || payload === undefined || signature === undefined || rest.length > 0) return undefined
  const payloadBytes = decodeBase64url(payload)
  if (payloadBytes === undefined || decodeBase64url(signature)?.length !== 64) return undefined
  const presented = readClaims(payloadBytes)
  if (presented === undefined || typeof presented.exp !== 'number' || presented.exp * 1_000 <= clock.now()) {
    return undefined
  }
  const { mac } = presented
  if (mac !== undefined && typeof mac !== 'string') return undefined
  const isRight = (text: string) => screening.digests.some((digest) => isSameText(text, macOf(presented, digest)))
  if (mac !== undefined && !isRight(mac)) return undefined
  const key = await findKey(header)
  if (key === undefined || !screening.mayVerify(mac)) return undefined
  try {
    const { payload: claims } = await jwtVerify(token, key.publicKey, {
      algorithms: [algorithm],
      typ: type,
      issuer: policy.issuer,
      audience: policy.audience,
      requiredClaims: ['sub', 'sid', 'jti', 'iat', 'exp'],
      maxTokenAge: policy.ttlMs / 1_000,
      clockTolerance: maxSkewS,
      currentDate: new Date(clock.now()),
    })
    const { sub, sid, jti, iat, exp } = claims
    if (!isId(sub) || !isId(sid) || jti === undefined || iat === undefined || exp === undefined) return undefined
    if (exp * 1_000 <= clock.now()) return undefined
    return { userId: sub, sessionId: sid, tokenId: jti, issuedAtS: iat, expiresAtS: exp }
  } catch {
    screening.onForged(mac)
    return undefined
  }
}
