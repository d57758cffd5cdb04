import { Type as t } from '@sinclair/typebox'
import { type Plan, plans } from '../../../limits/plans.ts'
import { accountRoles, accountStatuses } from '../matrix.ts'
import { exactly, type FactDefinition, oneOf, type RowSource, uuid } from './definition.ts'

/**
 * An account as its owner sees it, with the members of the response. Frozen, so that its JSON text is made once. No decision
 * depends on it.
 */
export type ProfileFact = {
  readonly id: string
  /** Empty once the account is closed. */
  readonly email: string
  readonly display_name: string
  readonly role: (typeof accountRoles)[number]
  readonly plan: Plan
  readonly status: (typeof accountStatuses)[number]
  readonly email_verified: boolean
  readonly second_factor: boolean
  readonly created_at: string
  readonly updated_at: string
}

type Row = {
  readonly profile_email: string | null
  readonly profile_display_name: string
  readonly profile_role: ProfileFact['role']
  readonly profile_plan: ProfileFact['plan']
  readonly profile_status: ProfileFact['status']
  readonly profile_email_verified: boolean
  readonly profile_second_factor: boolean
  readonly profile_created_at: Date
  readonly profile_updated_at: Date
}

const row: RowSource<ProfileFact, Row> = {
  alias: 'pf',
  select: {
    profile_email: 'pf.email',
    profile_display_name: 'pf.display_name',
    profile_role: 'pf.role',
    profile_plan: 'pf.plan',
    profile_status: 'pf.status',
    profile_email_verified: 'pf.email_verified_at is not null',
    profile_second_factor: 'pf.second_factor',
    profile_created_at: 'pf.created_at',
    profile_updated_at: 'pf.updated_at',
  },
  toFact: (row: Row & { readonly profile_id: string }) =>
    Object.freeze({
      id: row.profile_id,
      email: row.profile_email ?? '',
      display_name: row.profile_display_name,
      role: row.profile_role,
      plan: row.profile_plan,
      status: row.profile_status,
      created_at: row.profile_created_at.toISOString(),
      email_verified: row.profile_email_verified,
      second_factor: row.profile_second_factor,
      updated_at: row.profile_updated_at.toISOString(),
    }),
}

/** Object and text of a profile, without the texts that people choose. */
const fixedBytes = 1_200

export const profile: FactDefinition<'profile', ProfileFact> = {
  kind: 'profile',
  schema: exactly({
    id: uuid,
    email: t.String(),
    display_name: t.String(),
    role: oneOf(accountRoles),
    plan: oneOf(plans),
    status: oneOf(accountStatuses),
    email_verified: t.Boolean(),
    second_factor: t.Boolean(),
    created_at: t.String(),
    updated_at: t.String(),
  }),
  table: 'users',
  columns: [
    'email',
    'display_name',
    'role',
    'plan',
    'status',
    'created_at',
    'email_verified_at',
    'second_factor',
    'updated_at',
  ],
  row,
  memoryOnly: true,
  secret: true,
  /** Measured: a character takes up to two bytes in the object and two in the JSON text. */
  extraBytes: ({ email, display_name }) => fixedBytes + 5 * (email.length + display_name.length),
}
