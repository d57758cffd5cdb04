import { describe, expect, test } from 'bun:test'
import { randomBytes, randomUUID } from 'node:crypto'
import { decodeJwt, SignJWT } from 'jose'
import { createTokenDigest, createTokenScreening } from '../../src/identity/token-screening.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { createSecrets } from '../../src/platform/secrets.ts'
import {
  generateSigningKey,
  importKey,
  macOf,
  type Screening,
  signAccessToken,
  verifyAccessToken,
} from '../../src/platform/tokens.ts'

const policy = { issuer: 'velro', audience: 'velro', ttlMs: 900_000 }
const { publicJwk, privateJwk } = await generateSigningKey()
const key = {
  kid: randomUUID(),
  publicJwk,
  privateKey: await importKey(privateJwk),
  publicKey: await importKey(publicJwk),
}
const digest = createTokenDigest(createSecrets('a secret of all instances'))

const start = () => {
  const clock = manualClock()
  const screening = createTokenScreening(clock, [digest])
  let verifications = 0
  const counting: Screening = {
    ...screening,
    mayVerify: (mac) => {
      const may = screening.mayVerify(mac)
      if (may) verifications += 1
      return may
    },
  }
  const sign = () =>
    signAccessToken(
      key,
      policy,
      {
        userId: randomUUID(),
        sessionId: randomUUID(),
        tokenId: randomUUID(),
        issuedAtS: Math.floor(clock.now() / 1_000),
      },
      digest,
    )
  const isAccepted = async (token: string) =>
    (await verifyAccessToken(token, policy, clock, async () => key, counting)) !== undefined
  return { clock, sign, isAccepted, verifications: () => verifications }
}

const partsOf = (token: string) => token.split('.') as [string, string, string]
const withSignature = (token: string, signature = randomBytes(64).toString('base64url')) => {
  const [head, payload] = partsOf(token)
  return `${head}.${payload}.${signature}`
}
const withClaims = (token: string, change: (claims: Record<string, unknown>) => object) => {
  const [head, payload, signature] = partsOf(token)
  const claims = change(JSON.parse(Buffer.from(payload, 'base64url').toString()))
  return `${head}.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.${signature}`
}
const withoutMac = (token: string) => withClaims(token, ({ mac: _, ...rest }) => rest)

describe('a token', () => {
  test('of ours is accepted after one signature check', async () => {
    const { sign, isAccepted, verifications } = start()
    expect([await isAccepted(await sign()), verifications()]).toEqual([true, 1])
  })

  test('whose claims another party made up is refused without a signature check', async () => {
    const { clock, sign, isAccepted, verifications } = start()
    const token = await sign()
    const foreign = createTokenDigest(createSecrets('another secret'))
    for (const change of [
      (claims: object) => ({ ...claims, sub: randomUUID() }),
      (claims: object) => ({ ...claims, sid: randomUUID() }),
      (claims: object) => ({ ...claims, jti: 'x' }),
      (claims: object) => ({ ...claims, iat: Math.floor(clock.now() / 1_000) - 1 }),
      (claims: object) => ({ ...claims, exp: Math.floor(clock.now() / 1_000) + 1 }),
      (claims: object) => ({ ...claims, mac: macOf(claims, foreign) }),
      (claims: object) => ({ ...claims, mac: '' }),
      (claims: object) => ({ ...claims, mac: null }),
      (claims: object) => ({ ...claims, mac: [] }),
    ]) {
      expect(await isAccepted(withClaims(token, change))).toBe(false)
    }
    expect(verifications()).toBe(0)
  })

  test('that has expired is refused without a signature check', async () => {
    const { clock, sign, isAccepted, verifications } = start()
    const token = await sign()
    clock.advance(policy.ttlMs)
    expect([await isAccepted(token), verifications()]).toEqual([false, 0])
  })

  test('with the claims of a token and another signature costs one signature check a second', async () => {
    const { clock, sign, isAccepted, verifications } = start()
    const token = await sign()
    for (let count = 0; count < 100; count += 1) expect(await isAccepted(withSignature(token))).toBe(false)
    expect(verifications()).toBe(1)
    // Another holder is not affected, and the holder itself only for that second.
    expect(await isAccepted(await sign())).toBe(true)
    expect(await isAccepted(token)).toBe(false)
    clock.advance(1_000)
    expect(await isAccepted(token)).toBe(true)
  })

  test('of the build before, which set no mac, is accepted', async () => {
    const { clock, sign, isAccepted } = start()
    const { mac: _, ...claims } = decodeJwt(await sign()) as Record<string, unknown>
    const header = { alg: 'EdDSA', typ: 'at+jwt', kid: key.kid }
    const token = await new SignJWT(claims).setProtectedHeader(header).sign(key.privateKey)
    expect(await isAccepted(token)).toBe(true)
    clock.advance(policy.ttlMs)
    expect(await isAccepted(token)).toBe(false)
  })

  test('without a mac is checked 50 times a second, and refused beyond that', async () => {
    const { clock, sign, isAccepted, verifications } = start()
    const token = withoutMac(await sign())
    for (let second = 1; second <= 3; second += 1) {
      for (let count = 0; count < 100; count += 1) expect(await isAccepted(withSignature(token))).toBe(false)
      expect(verifications()).toBe(50 * second)
      clock.advance(1_000)
    }
  })
})
