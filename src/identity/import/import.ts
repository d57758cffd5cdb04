import { emailPattern } from '../../http/schema-types.ts'
import { canonicalEmail, emailRequirement, storedSpellings } from '../../kit/email.ts'
import { newId } from '../../kit/id.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import { HashRefused, storedHash } from '../hashes/formats.ts'
import type { ImportedUser, ImportStore } from './import-store.ts'
import type { SourceUser } from './sources.ts'

/** The outcome for one user: an account with a new id, or the reason against it. */
export type ImportOutcome = { readonly place: string; readonly sourceId: string } & (
  | { readonly outcome: 'imported'; readonly id: string; readonly hasPassword: boolean }
  | { readonly outcome: 'refused'; readonly reason: string }
)

export type ImportResult = { readonly outcomes: readonly ImportOutcome[] }

const batchSize = 1_000
const maxNameLength = 100

const address = new RegExp(emailPattern)
/** Line breaks, other controls, and characters that change the direction of text: none belongs into a name. */
const noNameCharacters = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu

const nameOf = (given: string, email: string): string => {
  const name = given.replace(noNameCharacters, ' ').trim() || email.slice(0, email.indexOf('@'))
  return [...name].slice(0, maxNameLength).join('').slice(0, maxNameLength).trim()
}

type Read = { readonly user: SourceUser; readonly account: ImportedUser; readonly hasPassword: boolean }
type Refused = { readonly user: SourceUser; readonly reason: string }

/** The account of a user, or why it is refused. */
const readUser = (user: SourceUser, now: Date): Read | Refused => {
  if (user.refused !== undefined) return { user, reason: user.refused }
  if (user.email.trim() === '') return { user, reason: 'has no e-mail address' }
  const email = address.test(user.email) ? canonicalEmail(user.email) : undefined
  if (email === undefined) return { user, reason: `the e-mail address ${emailRequirement}` }
  try {
    const account: ImportedUser = {
      id: newId(),
      email,
      displayName: nameOf(user.displayName, email),
      passwordHash: user.passwordHash === null ? null : storedHash(user.passwordHash),
      status: user.isSuspended ? 'suspended' : 'active',
      emailVerifiedAt: user.emailVerifiedAt,
      createdAt: user.createdAt ?? now,
    }
    return { user, account, hasPassword: user.passwordHash !== null }
  } catch (error) {
    if (error instanceof HashRefused) return { user, reason: `the password hash ${error.message}` }
    throw error
  }
}

const isRefused = (read: Read | Refused): read is Refused => 'reason' in read

/**
 * Imports the users of another system.
 *
 * Guarantee: everything is committed together, or nothing; each user becomes a whole account or is reported with the reason why it
 * did not. Accounts that exist are left as they are, so a second run adds what the first one refused. No user becomes an operator,
 * and no credits are given. A hash is stored as it is, and replaced by one of this service at the next sign-in.
 */
export const importUsers = async ({
  store,
  users,
  now,
  write,
  onProgress,
}: {
  store: ImportStore
  users: readonly SourceUser[]
  now: Date
  /** False: nothing is written; the outcomes are those that an import would have. */
  write: boolean
  /** Called after each batch with the number of users that are done. */
  onProgress: (done: number) => void
}): Promise<ImportResult> => {
  const seen = new Set<string>()
  const outcomes: ImportOutcome[] = []

  const importBatch = async (tx: TransactionSql, batch: readonly SourceUser[]): Promise<void> => {
    const read = batch.map((user) => readUser(user, now))
    const accounts = read.filter((each) => !isRefused(each))
    const taken = await store.findTaken(
      tx,
      accounts.flatMap(({ user }) => storedSpellings(user.email)),
    )
    const reasonOf = ({ user, account }: Read): string | undefined => {
      if (seen.has(account.email)) return 'has the e-mail address of an earlier user of the file'
      seen.add(account.email)
      return storedSpellings(user.email).some((spelling) => taken.has(spelling))
        ? 'has the e-mail address of an existing account'
        : undefined
    }
    const judged = read.map((each) => (isRefused(each) ? each : { ...each, reason: reasonOf(each) }))
    const wanted = judged.flatMap((each) => ('account' in each && each.reason === undefined ? [each.account] : []))
    const written = write ? await store.insert(tx, wanted) : new Set(wanted.map(({ id }) => id))
    for (const each of judged) {
      const { place, sourceId } = each.user
      if (!('account' in each) || each.reason !== undefined)
        outcomes.push({ place, sourceId, outcome: 'refused', reason: each.reason ?? '' })
      else if (written.has(each.account.id))
        outcomes.push({ place, sourceId, outcome: 'imported', id: each.account.id, hasPassword: each.hasPassword })
      else
        outcomes.push({ place, sourceId, outcome: 'refused', reason: 'has the e-mail address of an existing account' })
    }
  }

  await store.inOneTransaction(async (tx) => {
    for (let at = 0; at < users.length; at += batchSize) {
      await importBatch(tx, users.slice(at, at + batchSize))
      onProgress(Math.min(users.length, at + batchSize))
    }
  })
  return { outcomes }
}
