import type { Deadline } from '../kit/deadline.ts'
import { newId } from '../kit/id.ts'
import type { Sql, TransactionSql } from '../platform/postgres.ts'
import { deviceStore, type Notice } from './device-store.ts'
import { type FailureCount, pausesS } from './sign-in-rules.ts'
import { type UserRow, userColumns } from './store.ts'

/** What an attempt to sign in is decided by. */
export type AttemptFacts = {
  readonly user: UserRow | undefined
  /** Whether the device token belongs to a device of this account. */
  readonly isKnownDevice: boolean
  /** Addresses of live sessions, of at most 100 sessions. */
  readonly addresses: readonly string[]
  readonly counts: ReadonlyMap<string, FailureCount>
}

/** An attempt that failed, or that is counted as failed until it has succeeded. */
export type CountedAttempt = {
  readonly accountHash: Uint8Array
  readonly source: string
  readonly at: Date
  /** Given once a pause begins. Undefined where there is no owner. */
  readonly notice: Notice | undefined
}

export type StoredCount = { source: string; failures: number; last_failed_at: Date; paused_until: Date | null }

type CountRow = { source: string | null; failures: number | null; paused_until: Date | null }
type FactsRow = { [Column in keyof UserRow]: UserRow[Column] | null } & CountRow & {
    is_known_device: boolean | null
    addresses: string[] | null
  }

const toCount = ({ failures, paused_until }: Omit<CountRow, 'source'>): FailureCount => ({
  failures: failures ?? 0,
  pausedUntilMs: paused_until?.getTime() ?? null,
})

const maxLiveSessions = 100
const maxListed = 100
/** Failed sign-ins, known devices and notices. `batch` is for what no request waits for. */
export const createSignInStore = (sql: Sql, batch: Sql) => {
  /**
   * Counts an attempt and sets the pause that follows it. With `unlessPaused` only where no pause is under way: of concurrent
   * attempts after a pause one is counted. Undefined: it was not counted. Does not wait for the disk, nor for a standby: a
   * crash may lose the counts of the last moments.
   */
  const count = async (
    deadline: Deadline,
    { accountHash, source, at, notice }: CountedAttempt,
    { unlessPaused }: { unlessPaused: boolean },
  ): Promise<FailureCount | undefined> => {
    const pauses = [...pausesS]
    const [row] = await deadline.run(sql<(CountRow & { unsynced: string })[]>`
      with counted as (
        insert into sign_in_failures as f (account_hash, source, failures, last_failed_at)
        values (${accountHash}, ${source}, 1, ${at})
        on conflict (account_hash, source) do update
           set failures = f.failures + 1, last_failed_at = excluded.last_failed_at,
               paused_until = ${at}::timestamptz + interval '1 second'
                 * nullif((${pauses}::integer[])[least(f.failures + 1, cardinality(${pauses}::integer[]))], 0)
         where not ${unlessPaused} or f.paused_until is null or f.paused_until <= ${at}
        returning f.failures, f.paused_until
      ), noticed as (
        insert into notices (id, user_id, kind, day, created_at, details)
        select ${newId()}, ${notice?.userId ?? null}::uuid, ${notice?.kind ?? ''}, (${at}::timestamptz at time zone 'UTC')::date, ${at},
               ${sql.json(notice?.details ?? {})} || jsonb_build_object('failures', failures)
          from counted where paused_until is not null and ${notice !== undefined}
        on conflict on constraint notices__once_a_day do nothing
      )
      select failures, paused_until, set_config('synchronous_commit', 'off', true) as unsynced from counted`)
    return row && toCount(row)
  }

  return {
    ...deviceStore,
    count,

    /** One statement. `sources` are those of which the counts are wanted. */
    findAttemptFacts: async (
      deadline: Deadline,
      wanted: {
        readonly spellings: readonly string[]
        readonly deviceHash: Uint8Array | undefined
        readonly accountHash: Uint8Array
        readonly sources: readonly string[]
        readonly now: Date
      },
    ): Promise<AttemptFacts> => {
      const spellings = [...wanted.spellings]
      const { now } = wanted
      const rows = await deadline.run(sql<FactsRow[]>`
        select u.*, f.source, f.failures, f.paused_until,
               exists (select from known_devices d
                        where d.token_hash = ${wanted.deviceHash ?? null}::bytea and d.user_id = u.id
                          and d.expires_at > ${now}) as is_known_device,
               array(select s.address from sessions s
                      where s.user_id = u.id and s.ended_at is null and least(s.idle_expires_at, s.expires_at) > ${now}
                      order by s.id desc limit ${maxLiveSessions}) as addresses
          from (values (1)) one
          left join lateral (
            select ${userColumns(sql)} from users where email = any (${spellings}::text[])
             order by array_position(${spellings}::text[], email) desc limit 1
          ) u on true
          left join sign_in_failures f
            on f.account_hash = ${wanted.accountHash} and f.source = any (${[...wanted.sources]}::text[])`)
      const [first] = rows
      return {
        user: first === undefined || first.id === null ? undefined : (first as UserRow),
        isKnownDevice: first?.is_known_device === true,
        addresses: first?.addresses ?? [],
        counts: new Map(rows.flatMap((row) => (row.source === null ? [] : [[row.source, toCount(row)] as const]))),
      }
    },

    /** What a device that signs in without a password is recognized by, in the transaction of its sign-in. */
    findDeviceFacts: async (
      tx: TransactionSql,
      { userId, deviceHash, now }: { userId: string; deviceHash: Uint8Array | undefined; now: Date },
    ): Promise<Pick<AttemptFacts, 'isKnownDevice' | 'addresses'>> => {
      const [row] = await tx<{ is_known_device: boolean; addresses: string[] }[]>`
        select exists (select from known_devices
                        where token_hash = ${deviceHash ?? null}::bytea and user_id = ${userId}
                          and expires_at > ${now}) as is_known_device,
               array(select address from sessions
                      where user_id = ${userId} and ended_at is null and least(idle_expires_at, expires_at) > ${now}
                      order by id desc limit ${maxLiveSessions}) as addresses`
      return { isKnownDevice: row?.is_known_device === true, addresses: row?.addresses ?? [] }
    },

    findCount: async (
      deadline: Deadline,
      accountHash: Uint8Array,
      source: string,
    ): Promise<FailureCount | undefined> => {
      const [row] = await deadline.run(sql<CountRow[]>`
        select source, failures, paused_until from sign_in_failures
         where account_hash = ${accountHash} and source = ${source}`)
      return row && toCount(row)
    },

    /** The sources of an account, those that failed last first, at most 100. */
    listCounts: (deadline: Deadline, accountHash: Uint8Array): Promise<StoredCount[]> =>
      deadline.run(sql<StoredCount[]>`
        select source, failures, last_failed_at, paused_until from sign_in_failures
         where account_hash = ${accountHash} order by last_failed_at desc, source limit ${maxListed}`),

    clearAll: async (tx: TransactionSql, accountHash: Uint8Array): Promise<void> => {
      await tx`delete from sign_in_failures where account_hash = ${accountHash}`
    },

    /** After a success: failures are counted anew. */
    clear: async (tx: TransactionSql, accountHash: Uint8Array, source: string): Promise<void> => {
      await tx`delete from sign_in_failures where account_hash = ${accountHash} and source = ${source}`
    },

    /** Deletes rows older than the given times, at most 10,000 of each table. Returns how many. */
    purge: async (before: {
      readonly failedAt: Date
      readonly noticedAt: Date
      readonly now: Date
    }): Promise<number> => {
      const deleted = await Promise.all([
        batch`delete from sign_in_failures where ctid = any (array(
              select ctid from sign_in_failures where last_failed_at < ${before.failedAt} limit 10000))`,
        batch`delete from notices where id in (
              select id from notices where created_at < ${before.noticedAt} limit 10000)`,
        batch`delete from known_devices where token_hash in (
              select token_hash from known_devices where expires_at < ${before.now} limit 10000)`,
      ])
      return deleted.reduce((sum, { count }) => sum + count, 0)
    },

    /** Keeps at most `maxRows` counts: those with the most failures, of those the latest. Returns how many were deleted. */
    trimFailures: async (maxRows: number): Promise<number> => {
      const { count } = await batch`
        delete from sign_in_failures where ctid = any (array(
          select ctid from sign_in_failures order by failures desc, last_failed_at desc offset ${maxRows}))`
      return count
    },
  }
}

export type SignInStore = ReturnType<typeof createSignInStore>
