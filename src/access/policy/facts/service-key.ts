import { Buffer } from 'node:buffer'
import { Type as t } from '@sinclair/typebox'
import { type Scope, scopes } from '../matrix.ts'
import { exactly, type FactDefinition, oneOf, orNull, type RowSource } from './definition.ts'

export type ServiceKeyFact = {
  /** SHA-256 of the secret part, base64url. */
  readonly secretHash: string
  readonly scopes: readonly Scope[]
  readonly live: boolean
  readonly blocked: boolean
  readonly expiresAtMs: number | null
  /** Null: no limit. */
  readonly limitPerSecond: number | null
  /** Addresses and ranges from which the key may be used; null: from any. */
  readonly allowedNetworks: readonly string[] | null
}

type Row = {
  readonly service_key_secret_hash: Uint8Array
  readonly service_key_scopes: readonly Scope[]
  readonly service_key_live: boolean
  readonly service_key_blocked: boolean
  readonly service_key_expires_at: Date | null
  readonly service_key_limit_per_second: number | null
  readonly service_key_allowed_networks: readonly string[] | null
}

const row: RowSource<ServiceKeyFact, Row> = {
  alias: 'k',
  select: {
    service_key_secret_hash: 'k.secret_hash',
    service_key_scopes: 'k.scopes',
    service_key_live: 'k.revoked_at is null',
    service_key_blocked: 'k.blocked',
    service_key_expires_at: 'k.expires_at',
    service_key_limit_per_second: 'k.limit_per_second',
    service_key_allowed_networks: 'k.allowed_networks',
  },
  toFact: (row) => ({
    secretHash: Buffer.from(row.service_key_secret_hash).toString('base64url'),
    scopes: row.service_key_scopes,
    live: row.service_key_live,
    blocked: row.service_key_blocked,
    expiresAtMs: row.service_key_expires_at?.getTime() ?? null,
    limitPerSecond: row.service_key_limit_per_second,
    allowedNetworks: row.service_key_allowed_networks,
  }),
}

export const serviceKey: FactDefinition<'service_key', ServiceKeyFact> = {
  kind: 'service_key',
  schema: exactly({
    secretHash: t.String(),
    scopes: t.Array(oneOf(scopes)),
    live: t.Boolean(),
    blocked: t.Boolean(),
    expiresAtMs: orNull(t.Number()),
    limitPerSecond: orNull(t.Number()),
    // Required, so that an entry of a version which knows no networks is a miss.
    allowedNetworks: orNull(t.Array(t.String(), { minItems: 1 })),
  }),
  table: 'service_keys',
  columns: ['secret_hash', 'scopes', 'revoked_at', 'blocked', 'expires_at', 'limit_per_second', 'allowed_networks'],
  row,
  secret: true,
}
