import { Type as t } from '@sinclair/typebox'
import { account } from './account.ts'
import { exactly, type FactDefinition, type RowSource, uuid } from './definition.ts'

export type SessionFact = {
  readonly userId: string
  readonly ended: boolean
  readonly expiresAtMs: number
  /** When the person last proved who they are: signed in, or authenticated again. */
  readonly authenticatedAtMs: number
}

type Row = {
  readonly session_user_id: string
  readonly session_ended: boolean
  readonly session_expires_at: Date
  readonly session_authenticated_at: Date
}

const row: RowSource<SessionFact, Row> = {
  alias: 's',
  select: {
    session_user_id: 's.user_id',
    session_ended: 's.ended_at is not null',
    session_expires_at: 'least(s.idle_expires_at, s.expires_at)',
    session_authenticated_at: 'coalesce(s.authenticated_at, s.created_at)',
  },
  references: [{ definition: account, column: 'user_id' }],
  toFact: (row) => ({
    userId: row.session_user_id,
    ended: row.session_ended,
    expiresAtMs: row.session_expires_at.getTime(),
    authenticatedAtMs: row.session_authenticated_at.getTime(),
  }),
}

export const session: FactDefinition<'session', SessionFact> = {
  kind: 'session',
  schema: exactly({ userId: uuid, ended: t.Boolean(), expiresAtMs: t.Number(), authenticatedAtMs: t.Number() }),
  table: 'sessions',
  columns: ['user_id', 'ended_at', 'idle_expires_at', 'expires_at', 'created_at', 'authenticated_at'],
  row,
  /** An ended or expired session equals an absent one: deleting it invalidates nothing. */
  comparable: (fact, _other, nowMs) => (fact.ended || fact.expiresAtMs <= nowMs ? null : fact),
}
