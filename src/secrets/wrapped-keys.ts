import {
  createKeyedHash,
  type Generation,
  type KeyedHash,
  type Secrets,
  type WrappedKeyName,
  wrappedKeyNames,
} from '../platform/secrets.ts'
import type { SecretStore, WrappedKeyRow } from './store.ts'

type Dependencies = {
  store: Pick<SecretStore, 'findOldestSigningKey' | 'listWrappedKeys' | 'addWrappedKeys'>
  secrets: Secrets
}

/** The secret that was in use when the database was last written: the one that sealed its oldest signing key. */
const secretInUse = async ({ store, secrets }: Dependencies): Promise<Generation> => {
  const key = await store.findOldestSigningKey()
  return key === undefined ? 'current' : secrets.sealedBy('signing-key', key.sealed_private_key, key.kid)
}

/**
 * The keyed hash by which stored values are found again: failed sign-ins and welcome credits of an address, and names in Redis
 * that all instances share.
 *
 * Guarantee: the keys stay the same for as long as the database lives, on every instance, whatever becomes of SECRET. They are
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
