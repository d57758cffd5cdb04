import { randomUUID } from 'node:crypto'
import type { JWK } from 'jose'
import type { Clock } from '../kit/clock.ts'
import type { Secrets } from '../platform/secrets.ts'
import { generateSigningKey, headerSegment, importKey, type SigningKey, type VerifyingKey } from '../platform/tokens.ts'
import type { IdentityStore, SigningKeyRow } from './store.ts'

const dayMs = 86_400_000

/** A key signs for 90 days. It is published a day before its first signature, so that every instance has loaded it in time. */
export const rotation = { signsMs: 90 * dayMs, publishedAheadMs: dayMs } as const

/** The signing keys were sealed with another secret than those that this process has. */
export class SecretMismatch extends Error {
  override readonly name = 'SecretMismatch'
}

const minReloadMs = 5_000

type LoadedKey = VerifyingKey & SigningKey & { activatesAtMs: number; retiresAtMs: number; expiresAtMs: number }

/**
 * The keys that sign access tokens, shared by all instances through Postgres.
 *
 * Guarantee: there is always a key to sign with. A token is accepted until it expires, across rotations. A key is in the JWKS
 * a day before its first signature. `refresh` runs on a schedule. Degrades: while Postgres is down, the loaded keys stay in
 * use. Unknown key ids cause at most one statement every 5 s, at any request rate.
 */
export type SigningKeys = {
  signer(atMs?: number): SigningKey & VerifyingKey
  find(headerSegment: string): Promise<VerifyingKey | undefined>
  jwks(): { keys: JWK[] }
  /** Loads the keys, and adds the next one when it is due. Concurrent calls share one load. */
  refresh(): Promise<void>
}

export const createSigningKeys = ({
  store,
  secrets,
  clock,
  maxTokenTtlMs,
}: {
  store: Pick<IdentityStore, 'listSigningKeys' | 'addSigningKeys'>
  secrets: Secrets
  clock: Clock
  /** Upper bound of the configurable lifetime of a token. */
  maxTokenTtlMs: number
}): SigningKeys => {
  let keys: readonly LoadedKey[] = []
  let byHeader: ReadonlyMap<string, LoadedKey> = new Map()
  let lastLoadMs = Number.NEGATIVE_INFINITY
  let loading: Promise<void> | undefined

  const unseal = async (row: SigningKeyRow): Promise<LoadedKey> => {
    const known = keys.find(({ kid }) => kid === row.kid)
    if (known !== undefined) return known
    let privateJwk: JWK
    try {
      privateJwk = JSON.parse(secrets.unseal('signing-key', row.sealed_private_key, row.kid).toString())
    } catch (cause) {
      throw new SecretMismatch('The signing keys in this database were sealed under another SECRET', { cause })
    }
    return {
      kid: row.kid,
      privateKey: await importKey(privateJwk),
      publicKey: await importKey(row.public_jwk),
      publicJwk: { ...row.public_jwk, kid: row.kid, alg: 'EdDSA', use: 'sig' },
      activatesAtMs: row.activates_at.getTime(),
      retiresAtMs: row.retires_at.getTime(),
      expiresAtMs: row.expires_at.getTime(),
    }
  }

  const generate = async (activatesAtMs: number): Promise<SigningKeyRow> => {
    const { publicJwk, privateJwk } = await generateSigningKey()
    const kid = randomUUID()
    const retiresAtMs = activatesAtMs + rotation.signsMs
    return {
      kid,
      public_jwk: publicJwk,
      sealed_private_key: secrets.seal('signing-key', JSON.stringify(privateJwk), kid),
      activates_at: new Date(activatesAtMs),
      retires_at: new Date(retiresAtMs),
      // Twice the lifetime of a token: covers the last token signed, with a margin for clock skew.
      expires_at: new Date(retiresAtMs + 2 * maxTokenTtlMs),
    }
  }

  /** When the next key starts to sign; undefined while the last key signs for more than another day. */
  const nextActivationMs = (rows: readonly SigningKeyRow[]): number | undefined => {
    const nowMs = clock.now()
    const lastRetiresMs = rows.at(-1)?.retires_at.getTime() ?? Number.NEGATIVE_INFINITY
    return lastRetiresMs - rotation.publishedAheadMs > nowMs ? undefined : Math.max(lastRetiresMs, nowMs)
  }

  const planNextKey = async (rows: readonly SigningKeyRow[]): Promise<SigningKeyRow[]> => {
    const activatesAtMs = nextActivationMs(rows)
    return activatesAtMs === undefined ? [] : [await generate(activatesAtMs)]
  }

  const load = () => {
    loading ??= (async () => {
      lastLoadMs = clock.monotonic()
      const now = new Date(clock.now())
      let rows = await store.listSigningKeys(now)
      if (nextActivationMs(rows) !== undefined) {
        await store.addSigningKeys(now, planNextKey)
        rows = await store.listSigningKeys(now)
      }
      keys = await Promise.all(rows.map(unseal))
      byHeader = new Map(keys.map((key) => [headerSegment(key.kid), key]))
    })().finally(() => {
      loading = undefined
    })
    return loading
  }

  return {
    refresh: load,
    signer: (atMs = clock.now()) => {
      // Degrades: if no new key could be added because Postgres is down, the last one keeps signing.
      const key = keys.findLast(({ activatesAtMs }) => activatesAtMs <= atMs) ?? keys[0]
      if (key === undefined) throw new Error('No signing key was loaded')
      return key
    },
    find: async (segment) => {
      const known = byHeader.get(segment)
      if (known !== undefined || clock.monotonic() - lastLoadMs < minReloadMs) return known
      await load().catch(() => {})
      return byHeader.get(segment)
    },
    jwks: () => ({
      keys: keys.filter(({ expiresAtMs }) => expiresAtMs > clock.now()).map(({ publicJwk }) => publicJwk),
    }),
  }
}
