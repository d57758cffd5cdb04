import type { Clock } from '../kit/clock.ts'
import type { ServiceKeyStore } from './store.ts'

/** How often uses are written down. */
export const flushMs = 60_000

/**
 * Remembers when keys were last used and writes it down now and then, so that a request with a key costs no write.
 *
 * Promise: `note` waits for nothing; a key is written at most once a flush, all keys in one statement. Uses that could not
 * be written are written by the next flush; those of a process that is killed are lost.
 */
export const createKeyUsage = ({ store, clock }: { store: Pick<ServiceKeyStore, 'recordUses'>; clock: Clock }) => {
  let uses = new Map<string, number>()
  return {
    note: (keyId: string): void => {
      uses.set(keyId, clock.now())
    },
    flush: async (): Promise<void> => {
      if (uses.size === 0) return
      const written = uses
      uses = new Map()
      try {
        await store.recordUses(written)
      } catch (error) {
        uses = new Map([...written, ...uses])
        throw error
      }
    },
  }
}

export type KeyUsage = ReturnType<typeof createKeyUsage>
