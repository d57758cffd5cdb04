import { Type as t } from '@sinclair/typebox'
import { exactly, type FactDefinition, uuid, type ValueSource } from './definition.ts'

/** The teams that a user is a member of, by their ids, in order. No decision depends on it: those have the grants of a user. */
export type MembershipsFact = { readonly teams: readonly string[] }

const value: ValueSource<MembershipsFact, readonly string[]> = {
  select: `(select coalesce(json_agg(m.team_id order by m.team_id), '[]') from team_members m where m.user_id = w.id)`,
  toFact: (teams) => ({ teams }),
}

export const memberships: FactDefinition<'memberships', MembershipsFact> = {
  kind: 'memberships',
  schema: exactly({ teams: t.Array(uuid) }),
  table: 'team_members',
  columns: ['team_id', 'user_id'],
  value,
  extraBytes: ({ teams }) => 80 * teams.length,
}
