import type { Clock } from '../kit/clock.ts'
import type { ServiceKeyStore } from './store.ts'

/** Interval between flushes. */
export const flushMs = 60_000

/**
 * Collects in memory when keys were last used, so that a request with a key costs no write.
 *
 * Guarantee: `record` is synchronous. A flush writes each key at most once and all keys in one statement; after a failure the
 * next flush writes them. Degrades: uses since the last flush are lost when the process is killed.
 */
export const createKeyUsage = ({ store, clock }: { store: Pick<ServiceKeyStore, 'recordUses'>; clock: Clock }) => {
  let uses = new Map<string, number>()
  return {
    record: (keyId: string): void => {
      uses.set(keyId, clock.now())
    },
    flush: async (): Promise<void> => {
      if (uses.size === 0) return
      const pending = uses
      uses = new Map()
      try {
        await store.recordUses(pending)
      } catch (error) {
        uses = new Map([...pending, ...uses])
        throw error
      }
    },
  }
}

export type KeyUsage = ReturnType<typeof createKeyUsage>
