import { canonicalEmail } from '../kit/email.ts'
import type { KeyedHash } from '../platform/secrets.ts'

/**
 * Stands for the account of an e-mail address, whether or not it exists. A keyed hash: a copy of the database does not
 * reveal the addresses. All spellings of an address have one, and each purpose has another. It stays the same when SECRET changes.
 */
export type AccountHash = (email: string) => Uint8Array

export const createAccountHash =
  (hash: KeyedHash, purpose: 'sign-in-failures' | 'welcome-credits'): AccountHash =>
  (email) =>
    hash(purpose, new TextEncoder().encode(canonicalEmail(email) ?? email.toLowerCase()))
