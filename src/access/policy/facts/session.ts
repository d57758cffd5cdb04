import { Buffer } from 'node:buffer'
import { Type as t } from '@sinclair/typebox'
import { account } from './account.ts'
import { exactly, type FactDefinition, orNull, type RowSource, uuid } from './definition.ts'

/**
 * Where a session was opened and with what, for the layer of the security context. Holds no address: a network is a keyed hash.
 * Null: not known.
 */
export type SessionOrigin = {
  /** Where it was opened, then where its person authenticated in the sessions that it replaced. Empty where that is not known. */
  readonly countries: readonly string[]
  /** Keyed hash of the network. */
  readonly network: string | null
  readonly browser: string | null
  readonly platform: string | null
  /** Where it was opened or last refreshed its tokens, and when. */
  readonly seenCountry: string | null
  readonly seenAtMs: number
}

export type SessionFact = {
  readonly userId: string
  readonly ended: boolean
  readonly expiresAtMs: number
  /** When the person last proved who they are: signed in, or authenticated again. */
  readonly authenticatedAtMs: number
  /** Absent for a session that says nothing about where it was opened. */
  readonly origin?: SessionOrigin
}

type Row = {
  readonly session_user_id: string
  readonly session_ended: boolean
  readonly session_expires_at: Date
  readonly session_authenticated_at: Date
  readonly session_country: string | null
  readonly session_earlier_countries: readonly string[] | null
  readonly session_network_hash: Uint8Array | null
  readonly session_browser: string | null
  readonly session_platform: string | null
  readonly session_seen_country: string | null
  readonly session_seen_at: Date | null
}

/** The columns of a session that its origin is read from. */
export type OriginRow = {
  readonly country: string | null
  readonly earlier_countries: readonly string[] | null
  readonly network_hash: Uint8Array | null
  readonly browser: string | null
  readonly platform: string | null
  readonly seen_country: string | null
  readonly seen_at: Date | null
}

/** Undefined for a session that was opened before these columns were. */
export const toSessionOrigin = (row: OriginRow): SessionOrigin | undefined => {
  const { country, earlier_countries, network_hash, browser, platform, seen_country, seen_at } = row
  if (seen_at === null) return undefined
  return {
    countries: country === null ? [] : [country, ...(earlier_countries ?? [])],
    network: network_hash === null ? null : Buffer.from(network_hash).toString('base64url'),
    browser,
    platform,
    seenCountry: seen_country,
    seenAtMs: seen_at.getTime(),
  }
}

const row: RowSource<SessionFact, Row> = {
  alias: 's',
  select: {
    session_user_id: 's.user_id',
    session_ended: 's.ended_at is not null',
    session_expires_at: 'least(s.idle_expires_at, s.expires_at)',
    session_authenticated_at: 'coalesce(s.authenticated_at, s.created_at)',
    session_country: 's.country',
    session_earlier_countries: 's.earlier_countries',
    session_network_hash: 's.network_hash',
    session_browser: 's.browser',
    session_platform: 's.platform',
    session_seen_country: 's.seen_country',
    session_seen_at: 's.seen_at',
  },
  references: [{ definition: account, column: 'user_id' }],
  toFact: (row) => {
    const fact = {
      userId: row.session_user_id,
      ended: row.session_ended,
      expiresAtMs: row.session_expires_at.getTime(),
      authenticatedAtMs: row.session_authenticated_at.getTime(),
    }
    const origin = toSessionOrigin({
      country: row.session_country,
      earlier_countries: row.session_earlier_countries,
      network_hash: row.session_network_hash,
      browser: row.session_browser,
      platform: row.session_platform,
      seen_country: row.session_seen_country,
      seen_at: row.session_seen_at,
    })
    return origin === undefined ? fact : { ...fact, origin }
  },
}

const name = t.String({ maxLength: 64 })
const country = t.String({ pattern: '^[A-Z]{2}$' })

export const session: FactDefinition<'session', SessionFact> = {
  kind: 'session',
  schema: exactly({
    userId: uuid,
    ended: t.Boolean(),
    expiresAtMs: t.Number(),
    authenticatedAtMs: t.Number(),
    origin: t.Optional(
      exactly({
        countries: t.Array(country),
        network: orNull(name),
        browser: orNull(name),
        platform: orNull(name),
        seenCountry: orNull(country),
        seenAtMs: t.Number(),
      }),
    ),
  }),
  table: 'sessions',
  columns: [
    'user_id',
    'ended_at',
    'idle_expires_at',
    'expires_at',
    'created_at',
    'authenticated_at',
    'country',
    'earlier_countries',
    'network_hash',
    'browser',
    'platform',
    'seen_country',
    'seen_at',
  ],
  row,
  /** An ended or expired session equals an absent one: deleting it invalidates nothing. */
  comparable: (fact, _other, nowMs) => (fact.ended || fact.expiresAtMs <= nowMs ? null : fact),
  /** Measured: test/access/size.test.ts. */
  extraBytes: ({ origin }) => (origin === undefined ? 0 : 500),
}
