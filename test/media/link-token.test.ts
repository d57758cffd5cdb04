import { beforeEach, describe, expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { newId } from '../../src/kit/id.ts'
import { createLinkTokens, type LinkClaims, type LinkTokens } from '../../src/media/links/token.ts'
import { createSecrets, type Secrets } from '../../src/platform/secrets.ts'

const dayS = 86_400
const periodMs = 7 * dayS * 1_000
const secret = 'a secret of tests, the same everywhere'
/** The start of a key period. */
const periodStartMs = Math.ceil(Date.UTC(2026, 0, 1) / periodMs) * periodMs

describe('the token of a signed link', () => {
  const media = newId()
  let clock: ReturnType<typeof manualClock>
  let tokens: LinkTokens
  let claims: LinkClaims
  beforeEach(() => {
    clock = manualClock(periodStartMs + 3 * dayS * 1_000)
    tokens = createLinkTokens({ secrets: createSecrets(secret), clock })
    claims = {
      variant: '512',
      method: 'HEAD',
      expiresAtS: clock.now() / 1_000 + 3_600,
      sessionId: newId(),
      userId: newId(),
    }
  })

  test('returns the signed claims on every instance with the same secret, for its own media only', () => {
    const token = tokens.sign(media, claims)
    expect(tokens.read(media, token)).toEqual(claims)
    const elsewhere = createLinkTokens({ secrets: createSecrets(secret), clock })
    expect(elsewhere.read(media, token)).toEqual(claims)
    expect(tokens.read(newId(), token)).toBeUndefined()
    const stranger = createLinkTokens({ secrets: createSecrets(`${secret}.`), clock })
    expect(stranger.read(media, token)).toBeUndefined()
  })

  test('is invalid when any single bit is flipped', () => {
    const token = tokens.sign(media, claims)
    const bytes = Buffer.from(token, 'base64url')
    const accepted: number[] = []
    for (let bit = 0; bit < bytes.length * 8; bit += 1) {
      const other = Buffer.from(bytes)
      other[bit >> 3] = (other[bit >> 3] as number) ^ (1 << (bit & 7))
      if (tokens.read(media, other.toString('base64url')) !== undefined) accepted.push(bit)
    }
    expect(accepted).toEqual([])
    expect(tokens.read(media, token)).toEqual(claims)
  })

  test('has another signature when any one claim differs', () => {
    const other: LinkClaims = {
      variant: 'original',
      method: 'GET',
      expiresAtS: claims.expiresAtS + 1,
      sessionId: newId(),
      userId: newId(),
    }
    const macOf = (given: LinkClaims) => Buffer.from(tokens.sign(media, given), 'base64url').subarray(-32)
    const own = macOf(claims)
    for (const name of Object.keys(other) as (keyof LinkClaims)[]) {
      expect([name, macOf({ ...claims, [name]: other[name] }).equals(own)]).toEqual([name, false])
    }
  })

  test('is accepted in its canonical spelling only', () => {
    const token = tokens.sign(media, claims)
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
    const ends = [...alphabet].map((last) => token.slice(0, -1) + last)
    expect(ends.filter((text) => Buffer.from(text, 'base64url').equals(Buffer.from(token, 'base64url')))).toHaveLength(
      4,
    )
    expect(ends.filter((text) => tokens.read(media, text) !== undefined)).toEqual([token])
    for (const text of [`${token}=`, ` ${token}`, `${token}\n`, token.toLowerCase(), '', token.repeat(2)]) {
      expect(tokens.read(media, text)).toBeUndefined()
    }
  })

  test('expires at the second in its claims', () => {
    const token = tokens.sign(media, claims)
    clock.advance(3_600_000 - 1)
    expect(tokens.read(media, token)).toEqual(claims)
    clock.advance(1)
    expect(tokens.read(media, token)).toBeUndefined()
  })
})

describe('the keys of signed links', () => {
  const media = newId()
  const claims = { variant: 'original', method: 'GET', sessionId: newId(), userId: newId() } as const
  const at = (ms: number, secrets: Pick<Secrets, 'derive' | 'generations'> = createSecrets(secret)) => {
    const clock = manualClock(ms)
    return { clock, tokens: createLinkTokens({ secrets, clock }) }
  }
  const lasting = (fromMs: number, seconds: number): LinkClaims => ({ ...claims, expiresAtS: fromMs / 1_000 + seconds })

  test('rotate, and a link signed just before a rotation stays valid until its expiry', () => {
    const { clock, tokens } = at(periodStartMs - 1_000)
    const old = tokens.sign(media, lasting(clock.now(), dayS))
    clock.advance(1_000)
    const young = tokens.sign(media, lasting(clock.now(), dayS))
    const keyOf = (token: string) => Buffer.from(token, 'base64url').readUInt32BE(3)
    expect(keyOf(young)).toBe(keyOf(old) + 1)
    expect([tokens.read(media, old), tokens.read(media, young)]).not.toContain(undefined)
    clock.advance(dayS * 1_000 - 1_001)
    expect([tokens.read(media, old), tokens.read(media, young)]).not.toContain(undefined)
    clock.advance(1)
    expect(tokens.read(media, old)).toBeUndefined()
    expect(tokens.read(media, young)).toBeDefined()
  })

  test('verify nothing after the longest lifetime of a link, even a token with a later expiry', () => {
    const { clock, tokens } = at(periodStartMs - 1_000)
    // As the holder of a leaked old key could sign it.
    const forged = tokens.sign(media, lasting(clock.now(), 365 * dayS))
    expect(tokens.read(media, forged)).toBeDefined()
    clock.advance(dayS * 1_000)
    expect(tokens.read(media, forged)).toBeDefined()
    clock.advance(600_000)
    expect(tokens.read(media, forged)).toBeUndefined()
    clock.advance(periodMs)
    expect(tokens.read(media, forged)).toBeUndefined()
  })

  test('of the next period are accepted within the tolerated clock skew and no earlier', () => {
    const token = at(periodStartMs).tokens.sign(media, lasting(periodStartMs, dayS))
    expect(at(periodStartMs - 60_000).tokens.read(media, token)).toBeDefined()
    expect(at(periodStartMs - 600_000).tokens.read(media, token)).toBeUndefined()
  })

  test('are not derived for forged key ids', () => {
    const purposes = new Set<string>()
    const secrets = createSecrets(secret)
    const { clock, tokens } = at(periodStartMs + dayS * 3_000, {
      generations: secrets.generations,
      derive: (purpose, message) => {
        purposes.add(purpose)
        return secrets.derive(purpose, message)
      },
    })
    const bytes = Buffer.from(tokens.sign(media, lasting(clock.now(), 60)), 'base64url')
    for (let keyId = 0; keyId < 10_000; keyId += 1) {
      bytes.writeUInt32BE(keyId, 3)
      tokens.read(media, bytes.toString('base64url'))
    }
    expect(purposes.size).toBe(1)
  })
})
