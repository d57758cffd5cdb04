import type { JWK } from 'jose'
import type { AccountFact } from '../access/policy/facts/account.ts'
import type { accountStatuses } from '../access/policy/matrix.ts'
import { Fault } from '../fault.ts'
import { allInOrder } from '../kit/async.ts'
import { highestId } from '../kit/cursor.ts'
import type { Deadline } from '../kit/deadline.ts'
import { lockKeys } from '../platform/lock-keys.ts'
import { onViolation, type Queryable, type Sql, type TransactionSql } from '../platform/postgres.ts'
import type { OpenedFrom } from '../security-context/client-contexts.ts'
import { accountLockStore } from './account-lock-store.ts'
import { refreshTokenStore, type SessionRow, sessionColumns } from './refresh-token-store.ts'
import { restrictionStore } from './restriction-store.ts'
import { sessionQuotaStore } from './session-quota-store.ts'

export type UserRow = Omit<AccountFact, 'status'> & {
  status: (typeof accountStatuses)[number]
  /** There is a block of the account, which is active otherwise. */
  blocked: boolean
  id: string
  email: string | null
  display_name: string
  password_hash: string | null
  created_at: Date
  updated_at: Date
  email_verified_at: Date | null
  second_factor: boolean
}

/** A session to be opened. */
type NewSession = Omit<
  SessionRow,
  'ended_at' | 'seen_country' | 'seen_at' | 'earlier_countries' | 'country' | 'network_hash' | 'browser' | 'platform'
> &
  OpenedFrom

/** Of a session that replaced others. */
const maxEarlierCountries = 8

export type EndReason =
  | 'logout'
  | 'logout_all'
  | 'ended_by_user'
  | 'ended_by_operator'
  | 'password_changed'
  | 'password_reset'
  | 'refresh_reused'
  | 'account_closed'
  | 'suspended'
  /** By a newer session: the account had reached its quota. */
  | 'replaced'

export type SigningKeyRow = {
  kid: string
  public_jwk: JWK
  sealed_private_key: Uint8Array
  activates_at: Date
  retires_at: Date
  expires_at: Date
}

export const userColumns = (sql: Queryable) => sql`
  id, email, display_name, password_hash, status, blocked, role, plan, limits, created_at, updated_at, email_verified_at,
  second_factor`
const keyColumns = (sql: Queryable) => sql`
  kid, public_jwk, sealed_private_key, activates_at, retires_at, expires_at`

/** Throws `identity.email_taken` while another account can make the address its own again. */
export const requireUnreserved = async (tx: TransactionSql, spellings: readonly string[]): Promise<void> => {
  const { count } = await tx`
    select from former_addresses where email = any (${[...spellings]}::text[]) and expires_at > clock_timestamp()`
  if (count > 0) throw new Fault('identity.email_taken')
}

const endAddressChanges = async (tx: TransactionSql, userId: string, at: Date): Promise<void> => {
  await tx`
    with account as (select id from users where id = ${userId} for no key update)
    update one_time_tokens t set used_at = ${at}
      from account where t.user_id = account.id and t.purpose = 'email_change' and t.used_at is null`
}

export const createIdentityStore = (sql: Sql) => ({
  ...accountLockStore,
  ...refreshTokenStore,
  ...sessionQuotaStore,
  ...restrictionStore,

  /**
   * The account of an address. Of two accounts that were registered under different spellings of one address, the one whose
   * spelling comes last in `spellings`.
   */
  findUserByEmail: async (deadline: Deadline, spellings: readonly string[]): Promise<UserRow | undefined> => {
    const [row] = await deadline.run(sql<UserRow[]>`
      select ${userColumns(sql)} from users where email = any (${[...spellings]}::text[])
       order by array_position(${[...spellings]}::text[], email) desc limit 1`)
    return row
  },

  /** Throws `identity.email_taken` if an account is stored under one of these spellings. */
  requireFree: async (tx: TransactionSql, spellings: readonly string[]): Promise<void> => {
    const { count } = await tx`select from users where email = any (${[...spellings]}::text[])`
    if (count > 0) throw new Fault('identity.email_taken')
  },

  findUser: async (deadline: Deadline, id: string, on: Queryable = sql): Promise<UserRow | undefined> => {
    const [row] = await deadline.run(on<UserRow[]>`select ${userColumns(on)} from users where id = ${id}`)
    return row
  },

  /** Throws `identity.email_taken`. */
  insertUser: async (
    tx: TransactionSql,
    user: { id: string; email: string; displayName: string; passwordHash: string | null; emailVerifiedAt?: Date },
  ): Promise<UserRow> => {
    const [rows] = await allInOrder([
      () =>
        tx<UserRow[]>`
          insert into users (id, email, display_name, password_hash, email_verified_at)
          values (${user.id}, ${user.email}, ${user.displayName}, ${user.passwordHash}, ${user.emailVerifiedAt ?? null})
          returning ${userColumns(tx)}`.catch(onViolation('users__email', 'identity.email_taken')),
      // After the insertion, which waits for a transaction that takes the address away from another account.
      () => requireUnreserved(tx, [user.email]),
    ])
    return rows[0] as UserRow
  },

  updateDisplayName: async (tx: TransactionSql, id: string, displayName: string): Promise<UserRow | undefined> => {
    const [row] = await tx<UserRow[]>`
      update users set display_name = ${displayName}, updated_at = now()
       where id = ${id} and status = 'active' returning ${userColumns(tx)}`
    return row
  },

  /** Closes the account and erases its personal data; the email address can be registered again. */
  closeAccount: async (tx: TransactionSql, id: string): Promise<boolean> => {
    const { count } = await tx`
      update users set status = 'deleted', email = null, password_hash = null, display_name = '', email_verified_at = null, limits = null,
                       role = 'user', updated_at = now()
       where id = ${id} and status <> 'deleted'`
    return count === 1
  },

  /** `fromId` names the session that it replaces: where its person authenticated stays known. */
  insertSession: async (
    tx: TransactionSql,
    session: NewSession,
    tokenHash: Uint8Array,
    fromId: string | null = null,
  ) => {
    await tx`
      with session as (
        insert into sessions (id, user_id, user_agent, address, created_at, last_seen_at, idle_expires_at, expires_at,
                              country, network_hash, browser, platform, seen_country, seen_at, earlier_countries)
        values (${session.id}, ${session.user_id}, ${session.user_agent}, ${session.address}, ${session.created_at},
                ${session.last_seen_at}, ${session.idle_expires_at}, ${session.expires_at},
                ${session.country}, ${session.network_hash}, ${session.browser}, ${session.platform}, ${session.country},
                ${session.created_at},
                (select (array_remove(array_prepend(f.country, array_remove(f.earlier_countries, f.country)), null))[:${maxEarlierCountries}]
                   from sessions f where f.id = ${fromId}))
        returning id
      )
      insert into refresh_tokens (token_hash, session_id, issued_at)
      select ${tokenHash}, id, ${session.created_at} from session`
  },

  /** Ends one live session of a user. Returns false when the user has no live session with this id. */
  endSession: async (tx: TransactionSql, userId: string, id: string, reason: EndReason, at: Date): Promise<boolean> => {
    const { count } = await tx`
      update sessions set ended_at = ${at}, end_reason = ${reason}
       where id = ${id} and user_id = ${userId} and ended_at is null`
    return count === 1
  },

  /**
   * Ends links that would change the address of an account: a thief of a session may have asked for one. Call it before the session
   * is locked. Where there are any it locks the account.
   */
  endAddressChanges,

  /** Ends all live sessions of a user, except `exceptId` if given, and links as `endAddressChanges` does. */
  endSessions: async (
    tx: TransactionSql,
    userId: string,
    reason: EndReason,
    at: Date,
    exceptId: string | null = null,
  ): Promise<void> => {
    await endAddressChanges(tx, userId, at)
    await tx`
      update sessions set ended_at = ${at}, end_reason = ${reason}
       where user_id = ${userId} and ended_at is null and (${exceptId}::uuid is null or id <> ${exceptId}::uuid)`
  },

  listSessions: async (deadline: Deadline, userId: string, now: Date, after: string | null, limit: number) =>
    deadline.run(sql<SessionRow[]>`
      select ${sessionColumns(sql)} from sessions s
       where user_id = ${userId} and ended_at is null and least(idle_expires_at, expires_at) > ${now}
         and id < ${after ?? highestId}
       order by id desc limit ${limit + 1}`),

  /** Deletes up to 5,000 sessions that ended or expired before `before`, with their refresh tokens. Returns how many. */
  purgeSessions: async (before: Date): Promise<number> => {
    const { count } = await sql`
      delete from sessions where id in (
        select id from sessions where expires_at < ${before} or ended_at < ${before} limit 5000
      )`
    return count
  },

  listSigningKeys: async (now: Date): Promise<SigningKeyRow[]> =>
    sql<SigningKeyRow[]>`select ${keyColumns(sql)} from signing_keys where expires_at > ${now} order by activates_at`,

  /** Adds the keys that `plan` returns for the unexpired ones. Holds an advisory lock, so instances take turns. */
  addSigningKeys: async (now: Date, plan: (keys: SigningKeyRow[]) => Promise<SigningKeyRow[]>) => {
    await sql.begin(async (tx) => {
      await tx`select pg_advisory_xact_lock(${lockKeys.signingKeys})`
      const keys = await tx<SigningKeyRow[]>`
        select ${keyColumns(tx)} from signing_keys where expires_at > ${now} order by activates_at`
      for (const key of await plan(keys)) {
        await tx`
          insert into signing_keys (kid, public_jwk, sealed_private_key, activates_at, retires_at, expires_at)
          values (${key.kid}, ${tx.json(key.public_jwk as never)}, ${key.sealed_private_key}, ${key.activates_at},
                  ${key.retires_at}, ${key.expires_at})`
      }
      await tx`delete from signing_keys where expires_at < ${now}`
    })
  },
})

export type IdentityStore = ReturnType<typeof createIdentityStore>
