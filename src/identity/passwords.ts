import { Buffer } from 'node:buffer'
import { randomBytes } from 'node:crypto'
import { Fault } from '../fault.ts'
import type { Load } from '../kit/admission.ts'
import { networkOf } from '../kit/client-address.ts'
import type { Deadline } from '../kit/deadline.ts'
import { createFairSlots, SlotsFull } from '../kit/fair-slots.ts'
import { createWorkerPool, PoolBusy, type WorkerPool } from '../platform/worker-pool.ts'

/** OWASP's second recommendation for argon2id. To raise them, change them here: older hashes are renewed at the next login. */
export const argon2Options = { memoryCost: 19_456, timeCost: 2, parallelism: 1 } as const

/** Memory in KiB, passes, and lanes of argon2id. */
export type Argon2Cost = { readonly memoryCost: number; readonly timeCost: number; readonly parallelism: number }

export type PasswordWork =
  | { readonly kind: 'hash'; readonly password: string; readonly cost: Argon2Cost }
  /** The password as it was typed, because a hash of another system may be of another form than NFC. */
  | { readonly kind: 'verify'; readonly password: string; readonly hash: string }
export type PasswordResult =
  | { readonly kind: 'hash'; readonly hash: string }
  | { readonly kind: 'verify'; readonly matches: boolean }

const prefixOf = ({ memoryCost, timeCost, parallelism }: Argon2Cost) =>
  `$argon2id$v=19$m=${memoryCost},t=${timeCost},p=${parallelism}$`

const phcBase64 = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64').replaceAll('=', '')

/** What counts as one address. */
const addressBits = { v4: 32, v6: 64 }

const addressKey = (address: string) => `address ${networkOf(address, addressBits)}`

/** A hash that matches no password and takes as long to verify as a real one. */
const createDecoy = (cost: Argon2Cost) => `${prefixOf(cost)}${phcBase64(randomBytes(16))}$${phcBase64(randomBytes(32))}`

/** Whose turn for a hash it is: an address, and an account by any text that is the same for each attempt on it. */
export type Requester = { readonly address: string; readonly account: string }

/** argon2id in a worker thread, for the time of one turn. */
export type Hashing = {
  hash(password: string): Promise<string>
  verify(password: string, hash: string | undefined): Promise<boolean>
}

/**
 * Hashes and verifies passwords in worker threads, in turns.
 *
 * Guarantee: addresses and accounts take turns, so however many hashes one of them asks for, another one's is among the next;
 * see `FairSlots`. When as many wait as may, `inTurn` throws `identity.busy` at once, also for work that had to give its
 * place to a requester with less. Passwords are compared byte for byte after Unicode NFC. `verify` without a hash takes as
 * long as with one, so its timing does not reveal whether an account exists; a hash of another system (`hashes/formats.ts`) takes
 * its own time, until the next sign-in replaces it.
 */
export type Passwords = {
  /** Runs `work`, which may hash and verify any number of times, and does other work only if it is short. */
  inTurn<T>(requester: Requester, deadline: Deadline, work: (hashing: Hashing) => Promise<T>): Promise<T>
  /** Throws `identity.busy` where `inTurn` would for any account from this address, so that Postgres is not asked in vain. */
  refuseIfBusy(address: string): void
  /** Whether a stored hash has other than the current parameters. */
  isOutdated(hash: string): boolean
  readonly load: Load
  /** Threads, and how many of them hash now. */
  readonly threads: Pick<WorkerPool<unknown, unknown>, 'size' | 'busy' | 'queued'>
  close(): Promise<void>
}

const toFault = (error: unknown): unknown =>
  error instanceof SlotsFull || error instanceof PoolBusy ? new Fault('identity.busy', { cause: error }) : error

/** Turns at once for each worker: one computes, one asks Postgres about its attempt or has just done so. */
const turnsPerWorker = 2

export const createPasswords = ({
  workers,
  maxQueued,
  cost = argon2Options,
}: {
  workers: number
  maxQueued: number
  cost?: Argon2Cost | undefined
}): Passwords => {
  const atOnce = turnsPerWorker * workers
  const turns = createFairSlots({ slots: atOnce, maxWaiting: maxQueued })
  const pool = createWorkerPool<PasswordWork, PasswordResult>({
    url: new URL('./password-worker.ts', import.meta.url),
    size: workers,
    // Work of a request that was given up keeps its worker for the rest of a hash.
    maxQueued: 2 * atOnce,
  })
  const decoy = createDecoy(cost)
  const hashingUntil = (deadline: Deadline): Hashing => ({
    hash: async (given) => {
      const result = await pool.run({ kind: 'hash', password: given.normalize('NFC'), cost }, deadline)
      if (result.kind !== 'hash') throw new TypeError('The worker returned the result of another task')
      return result.hash
    },
    verify: async (given, hash) => {
      const work = { kind: 'verify', password: given, hash: hash ?? decoy } as const
      const result = await pool.run(work, deadline)
      return result.kind === 'verify' && result.matches && hash !== undefined
    },
  })
  return {
    load: turns,
    threads: pool,
    inTurn: ({ address, account }, deadline, work) =>
      turns
        .run([addressKey(address), `account ${account}`], deadline, () => work(hashingUntil(deadline)))
        .catch((error) => {
          throw toFault(error)
        }),
    refuseIfBusy: (address) => {
      try {
        turns.refuseIfFull([addressKey(address)])
      } catch (error) {
        throw toFault(error)
      }
    },
    isOutdated: (hash) => !hash.startsWith(prefixOf(cost)),
    close: () => {
      turns.close()
      return pool.close()
    },
  }
}
