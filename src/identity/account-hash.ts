import { canonicalEmail } from '../kit/email.ts'
import type { Secrets } from '../platform/secrets.ts'

/**
 * Stands for the account of an e-mail address where attempts on it are counted, whether or not there is one. A keyed hash: a
 * copy of the database does not reveal which addresses were tried. All spellings of an address have one.
 */
export type AccountHash = (email: string) => Uint8Array

export const createAccountHash =
  (secrets: Secrets): AccountHash =>
  (email) =>
    secrets.derive('sign-in-failures', new TextEncoder().encode(canonicalEmail(email) ?? email.toLowerCase()))
