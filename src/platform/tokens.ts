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

/**
 * Signs an access token: a JWT with EdDSA (RFC 8037) in the profile of RFC 9068. Deterministic: the same claims under the
 * same key give the same token.
 */
export const signAccessToken = (
  { kid, privateKey }: SigningKey,
  policy: TokenPolicy,
  claims: { userId: string; sessionId: string; tokenId: string; issuedAtS: number },
): Promise<string> =>
  new SignJWT({ sid: claims.sessionId })
    .setProtectedHeader(headerOf(kid))
    .setIssuer(policy.issuer)
    .setAudience(policy.audience)
    .setSubject(claims.userId)
    .setJti(claims.tokenId)
    .setIssuedAt(claims.issuedAtS)
    .setExpirationTime(claims.issuedAtS + policy.ttlMs / 1_000)
    .sign(privateKey)

/**
 * Verifies an access token. Returns its claims, or undefined if it is forged, foreign or expired.
 *
 * Rejected before any cryptography: text over 2,048 characters, anything but three segments of canonical base64url, and a
 * header that is not byte for byte that of our own tokens. This pins algorithm, type and key id and excludes `jku`, `jwk` and
 * `x5u`. `findKey` maps a header segment to its key. A token may have been issued up to 50 s in the future, by an instance
 * whose clock is ahead; its expiry is exact.
 */
export const verifyAccessToken = async (
  token: string,
  policy: TokenPolicy,
  clock: Clock,
  findKey: (headerSegment: string) => Promise<VerifyingKey | undefined>,
): Promise<AccessTokenClaims | undefined> => {
  if (token.length > maxLength) return undefined
  const [header, payload, signature, ...rest] = token.split('.')
  if (header === undefined || payload === undefined || signature === undefined || rest.length > 0) return undefined
  if (decodeBase64url(signature)?.length !== 64 || decodeBase64url(payload) === undefined) return undefined
  const key = await findKey(header)
  if (key === undefined) return undefined
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
    return undefined
  }
}
