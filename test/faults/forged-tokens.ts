/**
 * What it costs the server's process to tell whether a token is good, by the kind of token, in microseconds of processor time:
 * `bun test/faults/forged-tokens.ts`. The kinds of tokens take turns, so that they are measured on the same machine.
 */
import { randomBytes } from 'node:crypto'
import process from 'node:process'
import { createTokenDigest } from '../../src/identity/token-screening.ts'
import { newId } from '../../src/kit/id.ts'
import { createSecrets } from '../../src/platform/secrets.ts'
import { signAccessToken } from '../../src/platform/tokens.ts'
import { reapAll } from '../harness/reaper.ts'
import { startApp, testSecret } from '../harness.ts'

const requests = 200
const rounds = 5
const app = await startApp()
const { config, keys, identity } = app.services
const { claimsOf } = identity
const policy = { issuer: config.issuer, audience: config.audience, ttlMs: config.accessTokenTtlMs }
const digest = createTokenDigest(createSecrets(testSecret))
const sign = () =>
  signAccessToken(
    keys.signer(),
    policy,
    { userId: newId(), sessionId: newId(), tokenId: newId(), issuedAtS: Math.floor(Date.now() / 1_000) },
    digest,
  )
const tokens = await Promise.all(Array.from({ length: requests * (rounds + 1) }, sign))
const known = tokens.slice(0, requests)
let next = requests

const partsOf = (token: string) => token.split('.') as [string, string, string]
const random = (bytes: number) => randomBytes(bytes).toString('base64url')
const otherClaims = (token: string, change: (claims: Record<string, unknown>) => object) => {
  const [head, payload] = partsOf(token)
  const claims = change(JSON.parse(Buffer.from(payload, 'base64url').toString()))
  return `${head}.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.${random(64)}`
}

const kinds: Record<string, () => string[]> = {
  'broken: no token': () => known.map(() => random(300)),
  'forged: claims of another': () =>
    known.map((token) => otherClaims(token, (claims) => ({ ...claims, jti: random(16) }))),
  'forged: own claims': () =>
    known.map(
      () =>
        `${partsOf(known[0] as string)
          .slice(0, 2)
          .join('.')}.${random(64)}`,
    ),
  'forged: no mac': () =>
    known.map((token) => otherClaims(token, ({ mac: _, ...claims }) => ({ ...claims, jti: random(16) }))),
  'good: first use': () => {
    next += requests
    return tokens.slice(next - requests, next)
  },
  'good: known': () => known,
}

const usedUs = () => {
  const { user, system } = process.cpuUsage()
  return user + system
}
const results: Record<string, number[]> = {}
for (let round = 0; round < rounds; round += 1) {
  for (const [name, make] of Object.entries(kinds)) {
    const sent = make()
    const startedUs = usedUs()
    for (const token of sent)
      await Promise.resolve(token)
        .then(claimsOf)
        .catch(() => {})
    const each = (usedUs() - startedUs) / requests
    results[name] = [...(results[name] ?? []), each]
  }
}
for (const [name, each] of Object.entries(results)) {
  const sorted = each.toSorted((a, b) => a - b)
  console.log(`${name.padEnd(28)} ${(sorted[sorted.length >> 1] ?? 0).toFixed(1).padStart(7)} µs`)
}
await app.close()
await reapAll()
process.exit(0)
