import { Fault, invalidInput } from '../fault.ts'
import type { Deadline } from '../kit/deadline.ts'
import type { BreachedPasswords } from '../platform/breached-passwords.ts'
import { withoutWords, wordsOfAddress } from './password-words.ts'

/** Shortest password, in code points, that any configuration accepts. */
export const leastPasswordLength = 8

/** Never part of a good password, beside the words of the address and those of the configuration. */
const productWords = ['velro']

/** The common passwords of at least 8 characters. Loaded lazily. */
let common: Promise<ReadonlySet<string>> | undefined
const commonPasswords = (): Promise<ReadonlySet<string>> => {
  common ??= import('@zxcvbn-ts/language-common').then(
    ({ dictionary }) =>
      new Set(dictionary['passwords-common'].filter((password) => password.length >= leastPasswordLength)),
  )
  return common
}

/** Counts code points. Schemas count UTF-16 code units, of which some characters take two. */
const lengthOf = (password: string): number => [...password.normalize('NFC')].length

/**
 * What a new password must be. There is no rule of composition (NIST SP 800-63B-4 §3.1.1.2): any Unicode text is accepted that
 * is long enough and not easily guessed.
 */
export type PasswordRules = {
  /**
   * Refuses a password that is too short (`request.invalid`, at the pointer), common (`identity.password_common`), or not good
   * enough without the words of the address and of the service (`identity.password_predictable`). Cheap: call it before the
   * request is counted on a budget.
   */
  require(password: string, email: string, pointer: string): Promise<void>
  /**
   * Refuses a password that was found in a breach (`identity.password_breached`), where a service that knows breaches is
   * configured. It may take a second, so call it once the request is counted. Degrades: where that service does not answer,
   * the password is accepted, and the log says so.
   */
  refuseBreached(password: string, deadline: Deadline): Promise<void>
}

export const createPasswordRules = ({
  minLength,
  words,
  breached,
}: {
  /** In code points. */
  minLength: number
  /** Of the deployment: its names and those of its products. */
  words: readonly string[]
  /** Undefined: none is configured. */
  breached: BreachedPasswords | undefined
}): PasswordRules => {
  const isCommon = async (password: string): Promise<boolean> =>
    (await commonPasswords()).has(password.normalize('NFC').toLowerCase())
  return {
    require: async (password, email, pointer) => {
      if (lengthOf(password) < minLength)
        throw invalidInput('body', pointer, `must be text of at least ${minLength} characters`)
      if (await isCommon(password)) throw new Fault('identity.password_common')
      const rest = withoutWords(password, [...productWords, ...words, ...wordsOfAddress(email)])
      if (rest !== undefined && (lengthOf(rest) < leastPasswordLength || (await isCommon(rest))))
        throw new Fault('identity.password_predictable')
    },
    refuseBreached: async (password, deadline) => {
      if ((await breached?.has(password.normalize('NFC'), deadline)) === true)
        throw new Fault('identity.password_breached')
    },
  }
}
