import type { Config } from '../../config.ts'
import { invalidInput } from '../../fault.ts'
import { emailPattern } from '../../http/schema-types.ts'
import { systemClock } from '../../kit/clock.ts'
import { createDeadlines } from '../../kit/deadline.ts'
import { canonicalEmail, emailRequirement } from '../../kit/email.ts'
import { newId } from '../../kit/id.ts'
import { createBreachedPasswords } from '../../platform/breached-passwords.ts'
import type { Log } from '../../platform/log.ts'
import type { Sql } from '../../platform/postgres.ts'
import { createPasswordRules } from '../password-rules.ts'
import { createPasswords } from '../passwords.ts'
import { insertOperator, promoteByEmail } from './store.ts'

const withinMs = 60_000
const maxNameLength = 100
const maxPasswordLength = 1_024

export type OperatorAccount = {
  readonly outcome: 'created' | 'promoted' | 'is_admin'
  readonly userId: string
}

/**
 * Creates the account of an operator from the command line, or makes the active account with the address an operator. Its caller
 * has the database, so the address counts as verified. The password is checked as at a registration.
 *
 * Guarantee: running instances learn the role within the time to live of their caches, at most a minute.
 */
export const createOperatorAccount = async ({
  sql,
  config,
  log,
  email: given,
  name,
  readPassword,
}: {
  sql: Sql
  config: Pick<Config, 'passwordMinLength' | 'passwordWords' | 'passwordBreachUrl'>
  log: Log
  email: string
  name: string | undefined
  /** Called only where a new account is made. */
  readPassword: () => Promise<string>
}): Promise<OperatorAccount> => {
  const email = new RegExp(emailPattern).test(given) ? canonicalEmail(given) : undefined
  if (email === undefined) throw invalidInput('body', '/email', emailRequirement)
  const displayName = (name ?? email.slice(0, email.indexOf('@'))).trim().slice(0, maxNameLength)
  if (displayName === '') throw invalidInput('body', '/name', 'must not be blank')
  const promotion = await promoteByEmail(sql, email)
  if (promotion.outcome !== 'absent') return promotion

  const deadline = createDeadlines(systemClock)(withinMs)
  const { passwordBreachUrl: url } = config
  const rules = createPasswordRules({
    minLength: config.passwordMinLength,
    words: config.passwordWords,
    breached: url === undefined ? undefined : createBreachedPasswords({ url, log }),
  })
  const password = await readPassword()
  if (password.length > maxPasswordLength)
    throw invalidInput('body', '/password', `must be text of at most ${maxPasswordLength} characters`)
  await rules.require(password, email, '/password')
  await rules.refuseBreached(password, deadline)
  const passwords = createPasswords({ workers: 1, maxQueued: 1 })
  try {
    const passwordHash = await passwords.inTurn({ address: '', account: email }, deadline, ({ hash }) => hash(password))
    const userId = newId()
    await insertOperator(sql, { id: userId, email, displayName, passwordHash })
    return { outcome: 'created', userId }
  } finally {
    await passwords.close()
  }
}
