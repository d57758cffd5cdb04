import type { Log } from '../platform/log.ts'
import { SealRefused, type Secrets } from '../platform/secrets.ts'
import { type SealedColumn, type SealedValue, type SecretStore, sealedColumns } from './store.ts'

/** How often values are looked for that another instance has sealed under the secret before. */
export const resealMs = 600_000
const batch = 200

type Dependencies = {
  store: Pick<SecretStore, 'listSealed' | 'replaceSealed'>
  secrets: Secrets
  log: Log
}
type Counts = { resealed: number; unreadable: number }

/** Undefined for a value that neither SECRET nor SECRET_PREVIOUS opens. */
const readSealedBy = (secrets: Secrets, { name }: SealedColumn, { key, sealed }: SealedValue) => {
  try {
    return secrets.sealedBy(name, sealed, key)
  } catch (error) {
    if (error instanceof SealRefused) return undefined
    throw error
  }
}

/**
 * Seals the stored values again that SECRET_PREVIOUS sealed, so that it can be removed.
 *
 * Guarantee: a value is replaced only if it is still the one that was read, so no newer one is lost, and instances may do this
 * at once. What neither secret opens is left as it is, and reported: the people whom it concerns cannot sign in with it. Without
 * SECRET_PREVIOUS the first run looks for such values, and later ones do nothing.
 */
export const createResealing = ({ store, secrets, log }: Dependencies) => {
  const canReseal = secrets.generations.includes('previous')
  let isFirst = true

  const reseal = async (column: SealedColumn): Promise<Counts> => {
    const counts = { resealed: 0, unreadable: 0 }
    let after: string | undefined
    for (;;) {
      const values = await store.listSealed(column, { prefix: secrets.sealedPrefix, after, limit: batch })
      const read = values.map((value) => ({ ...value, by: readSealedBy(secrets, column, value) }))
      counts.unreadable += read.filter(({ by }) => by === undefined).length
      const old = read.filter(({ by }) => by === 'previous')
      const sealed = old.map(({ key, sealed }) => ({
        key,
        sealed,
        resealed: secrets.seal(column.name, secrets.unseal(column.name, sealed, key), key),
      }))
      if (sealed.length > 0) counts.resealed += await store.replaceSealed(column, sealed)
      if (values.length < batch) return counts
      after = values.at(-1)?.key
    }
  }

  return async (): Promise<void> => {
    if (!isFirst && !canReseal) return
    let resealed = 0
    const unreadable: string[] = []
    for (const column of sealedColumns) {
      const counts = await reseal(column)
      resealed += counts.resealed
      if (counts.unreadable > 0) unreadable.push(`${column.table}: ${counts.unreadable}`)
    }
    if (unreadable.length > 0) {
      log.error(
        { event: 'secret.unreadable', unreadable },
        'stored values were sealed under another secret than SECRET and SECRET_PREVIOUS: set SECRET_PREVIOUS to that one',
      )
    } else if (canReseal && (isFirst || resealed > 0)) {
      log.info({ event: 'secret.resealed', values: resealed }, 'every stored value is sealed under SECRET')
    }
    isFirst = false
  }
}
