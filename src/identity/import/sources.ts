import type { SourceRow, SourceTables } from './tables.ts'

/*
 * The users of other systems, by the tables that those export. Pure.
 */

/** A user as another system has it; nothing is checked yet. */
export type SourceUser = {
  /** Where the user stands in the file, for the report. */
  readonly place: string
  readonly sourceId: string
  readonly email: string
  readonly displayName: string
  /** Null: the user has no password there. */
  readonly passwordHash: string | null
  readonly emailVerifiedAt: Date | null
  readonly createdAt: Date | null
  readonly isSuspended: boolean
  /** Why the user is left out, as the rest of a sentence. */
  readonly refused?: string | undefined
}

export const sourceNames = ['supabase', 'better-auth', 'pocketbase'] as const
export type SourceName = (typeof sourceNames)[number]

/** The tables of a file are not those of the system. */
export class TableMissing extends Error {
  override readonly name = 'TableMissing'
}

const textOf = (value: unknown): string =>
  typeof value === 'string' ? value : typeof value === 'number' || typeof value === 'bigint' ? String(value) : ''

const optionalText = (value: unknown): string | null => textOf(value).trim() || null

const isTrue = (value: unknown): boolean =>
  value === true || value === 1 || (typeof value === 'string' && /^(?:t|true|1|yes)$/i.test(value))

/** Figures below are seconds, those above milliseconds: the first is in the year 5138, the second in 1973. */
const secondsBelow = 100_000_000_000

/** A time as databases write it; numbers are seconds or milliseconds since 1970. Null for any other text. */
const timeOf = (value: unknown): Date | null => {
  const text = textOf(value).trim()
  if (text === '') return null
  const figure = /^\d+(?:\.\d+)?$/.test(text) ? Number(text) : undefined
  if (figure !== undefined) return new Date(figure < secondsBelow ? figure * 1_000 : figure)
  // "2024-05-01 10:00:00.12+00", of Postgres and of PocketBase.
  const iso = text.replace(/^(\d{4}-\d\d-\d\d) /, '$1T').replace(/([+-]\d\d)$/, '$1:00')
  const time = new Date(/[Zz]|[+-]\d\d:?\d\d$/.test(iso) ? iso : `${iso}Z`)
  return Number.isNaN(time.getTime()) ? null : time
}

/** An object, also one that a text format has as JSON. */
const objectOf = (value: unknown): SourceRow => {
  if (typeof value === 'object' && value !== null) return value as SourceRow
  try {
    const parsed: unknown = JSON.parse(textOf(value))
    return typeof parsed === 'object' && parsed !== null ? (parsed as SourceRow) : {}
  } catch {
    return {}
  }
}

/** The first of these tables that there is; a name without a schema is found in any schema. */
const requireTable = (tables: SourceTables, names: readonly string[]) => {
  for (const name of names) {
    for (const [given, table] of tables) if (given === name || given.endsWith(`.${name}`)) return table
  }
  throw new TableMissing(
    `must hold the table ${names.join(' or ')}, but holds ${[...tables.keys()].join(', ') || 'none'}`,
  )
}

const placeOf = (index: number) => `user ${index + 1}`

/** `auth.users` of Supabase Auth. */
const fromSupabase = (tables: SourceTables, now: Date): SourceUser[] =>
  requireTable(tables, ['auth.users', 'users']).rows.map((row, index) => {
    const profile = objectOf(row['raw_user_meta_data'])
    const bannedUntil = timeOf(row['banned_until'])
    return {
      place: placeOf(index),
      sourceId: textOf(row['id']),
      email: textOf(row['email']),
      displayName: textOf(profile['full_name'] ?? profile['name'] ?? profile['user_name']),
      passwordHash: optionalText(row['encrypted_password']),
      emailVerifiedAt: timeOf(row['email_confirmed_at'] ?? row['confirmed_at']),
      createdAt: timeOf(row['created_at']),
      isSuspended: bannedUntil !== null && bannedUntil > now,
      refused:
        optionalText(row['deleted_at']) !== null
          ? 'is deleted there'
          : isTrue(row['is_anonymous'])
            ? 'is an anonymous user'
            : undefined,
    }
  })

/** `user` and `account` of Better Auth; columns in camel case, or in snake case as some adapters write them. */
const fromBetterAuth = (tables: SourceTables, now: Date): SourceUser[] => {
  const { rows: users } = requireTable(tables, ['user', 'users'])
  const { rows: accounts } = requireTable(tables, ['account', 'accounts'])
  const passwords = new Map(
    accounts
      .filter((row) => textOf(row['providerId'] ?? row['provider_id']) === 'credential')
      .map((row) => [textOf(row['userId'] ?? row['user_id']), optionalText(row['password'])]),
  )
  return users.map((row, index) => {
    const sourceId = textOf(row['id'])
    const createdAt = timeOf(row['createdAt'] ?? row['created_at'])
    const banEnds = timeOf(row['banExpires'] ?? row['ban_expires'])
    return {
      place: placeOf(index),
      sourceId,
      email: textOf(row['email']),
      displayName: textOf(row['name']),
      passwordHash: passwords.get(sourceId) ?? null,
      // Better Auth keeps whether an address is verified, and not since when.
      emailVerifiedAt: isTrue(row['emailVerified'] ?? row['email_verified']) ? (createdAt ?? now) : null,
      createdAt,
      isSuspended: isTrue(row['banned']) && (banEnds === null || banEnds > now),
      refused: isTrue(row['isAnonymous'] ?? row['is_anonymous']) ? 'is an anonymous user' : undefined,
    }
  })
}

/** The collection `users` of PocketBase; its password is `password` since version 0.23, and `passwordHash` before. */
const fromPocketBase = (tables: SourceTables, now: Date): SourceUser[] =>
  requireTable(tables, ['users', 'user']).rows.map((row, index) => {
    const createdAt = timeOf(row['created'])
    return {
      place: placeOf(index),
      sourceId: textOf(row['id']),
      email: textOf(row['email']),
      displayName: textOf(row['name'] ?? row['username']),
      passwordHash: optionalText(row['passwordHash'] ?? row['password']),
      emailVerifiedAt: isTrue(row['verified']) ? (createdAt ?? now) : null,
      createdAt,
      isSuspended: false,
    }
  })

const readers = {
  supabase: fromSupabase,
  'better-auth': fromBetterAuth,
  pocketbase: fromPocketBase,
} as const satisfies Record<SourceName, (tables: SourceTables, now: Date) => SourceUser[]>

/** The users of a system, in the order of the file. Throws `TableMissing`. `now` decides which bans are over. */
export const readUsers = (source: SourceName, tables: SourceTables, now: Date): SourceUser[] =>
  readers[source](tables, now)
