import {
  createKeyedHash,
  type Generation,
  type KeyedHash,
  SealRefused,
  type Secrets,
  type WrappedKeyName,
  wrappedKeyNames,
} from '../platform/secrets.ts'
import type { SecretStore, WrappedKeyRow } from './store.ts'

type Dependencies = {
  store: Pick<SecretStore, 'listSigningKeys' | 'listWrappedKeys' | 'addWrappedKeys'>
  secrets: Secrets
}

/** The secret that was in use before this start: the one that sealed the oldest signing key that opens. */
const secretInUse = async ({ store, secrets }: Dependencies): Promise<Generation> => {
  for (const { kid, sealed_private_key } of await store.listSigningKeys()) {
    try {
      return secrets.sealedBy('signing-key', sealed_private_key, kid)
    } catch (error) {
      if (!(error instanceof SealRefused)) throw error
    }
  }
  return 'current'
}

/**
 * The keyed hash by which stored values are found again: failed sign-ins and welcome credits of an address, and names in Redis
 * that all instances share.
 *
 * Guarantee: the keys stay the same for as long as the database lives, on every instance, also when SECRET changes. They are
 * stored, sealed under SECRET. Their first values are derived from the SECRET in use, as 0.2.0 derives them each time: so
 * instances of both versions find the same values. One statement where they exist.
 */
export const openWrappedKeys = async ({ store, secrets }: Dependencies): Promise<KeyedHash> => {
  let rows = await store.listWrappedKeys()
  const missing = wrappedKeyNames.filter((name) => !rows.some((row) => row.name === name))
  if (missing.length > 0) {
    const by = await secretInUse({ store, secrets })
    const seal = (name: WrappedKeyName): WrappedKeyRow => ({
      name,
      sealed_key: secrets.seal('wrapped-key', secrets.wrappedKey(name, by), name),
    })
    await store.addWrappedKeys(missing.map(seal))
    rows = await store.listWrappedKeys()
  }
  const keys = new Map(
    rows.map(({ name, sealed_key }) => [name, new Uint8Array(secrets.unseal('wrapped-key', sealed_key, name))]),
  )
  return createKeyedHash((name) => {
    const key = keys.get(name)
    if (key === undefined) throw new Error(`There is no wrapped key ${name}`)
    return key
  })
}
