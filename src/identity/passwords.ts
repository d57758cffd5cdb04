import { Buffer } from 'node:buffer'
import { randomBytes } from 'node:crypto'
import { Fault } from '../fault.ts'
import type { Deadline } from '../kit/deadline.ts'
import { createWorkerPool, PoolBusy } from '../platform/worker-pool.ts'

/** OWASP's second recommendation for argon2id. To raise them, change them here: older hashes are renewed at the next login. */
export const argon2Options = { memoryCost: 19_456, timeCost: 2, parallelism: 1 } as const

/** Memory in KiB, passes, and lanes of argon2id. */
export type Argon2Cost = { readonly memoryCost: number; readonly timeCost: number; readonly parallelism: number }

export type PasswordWork =
  | { readonly kind: 'hash'; readonly password: string; readonly cost: Argon2Cost }
  | { readonly kind: 'verify'; readonly password: string; readonly hash: string }
export type PasswordResult =
  | { readonly kind: 'hash'; readonly hash: string }
  | { readonly kind: 'verify'; readonly matches: boolean }

const prefixOf = ({ memoryCost, timeCost, parallelism }: Argon2Cost) =>
  `$argon2id$v=19$m=${memoryCost},t=${timeCost},p=${parallelism}$`

const phcBase64 = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64').replaceAll('=', '')

/** A hash that matches no password and takes as long to verify as a real one. */
const createDecoy = (cost: Argon2Cost) => `${prefixOf(cost)}${phcBase64(randomBytes(16))}$${phcBase64(randomBytes(32))}`

let common: Promise<ReadonlySet<string>> | undefined

/** The common passwords of at least 8 characters. Loaded lazily. */
const commonPasswords = (): Promise<ReadonlySet<string>> => {
  common ??= import('@zxcvbn-ts/language-common').then(
    ({ dictionary }) => new Set(dictionary['passwords-common'].filter((password) => password.length >= 8)),
  )
  return common
}

/**
 * Hashes and verifies passwords in worker threads.
 *
 * Guarantee: passwords are compared byte for byte after Unicode NFC. `verify` without a hash takes as long as with one, so its
 * timing does not reveal whether an account exists. When the queue is full it throws `identity.busy` at once.
 */
export type Passwords = {
  /** Throws `identity.password_common` for a password on the list of common ones. */
  hash(password: string, deadline: Deadline): Promise<string>
  /** Hashes an already accepted password with the current parameters, without the check for common passwords. */
  rehash(password: string, deadline: Deadline): Promise<string>
  verify(password: string, hash: string | undefined, deadline: Deadline): Promise<boolean>
  /** Whether a stored hash has other than the current parameters. */
  isOutdated(hash: string): boolean
  close(): Promise<void>
}

export const createPasswords = ({
  workers,
  maxQueued,
  cost = argon2Options,
}: {
  workers: number
  maxQueued: number
  cost?: Argon2Cost | undefined
}): Passwords => {
  const pool = createWorkerPool<PasswordWork, PasswordResult>({
    url: new URL('./password-worker.ts', import.meta.url),
    size: workers,
    maxQueued,
  })
  const decoy = createDecoy(cost)
  const run = (work: PasswordWork, deadline: Deadline) =>
    pool.run(work, deadline).catch((error) => {
      throw error instanceof PoolBusy ? new Fault('identity.busy', { cause: error }) : error
    })
  const rehash = async (given: string, deadline: Deadline) => {
    const result = await run({ kind: 'hash', password: given.normalize('NFC'), cost }, deadline)
    if (result.kind !== 'hash') throw new TypeError('The worker returned the result of another task')
    return result.hash
  }
  return {
    rehash,
    hash: async (given, deadline) => {
      if ((await commonPasswords()).has(given.normalize('NFC').toLowerCase()))
        throw new Fault('identity.password_common')
      return rehash(given, deadline)
    },
    verify: async (given, hash, deadline) => {
      const result = await run({ kind: 'verify', password: given.normalize('NFC'), hash: hash ?? decoy }, deadline)
      return result.kind === 'verify' && result.matches && hash !== undefined
    },
    isOutdated: (hash) => !hash.startsWith(prefixOf(cost)),
    close: pool.close,
  }
}
