import { accessLevels, teamRoles } from '../access/policy/matrix.ts'
import {
  closed,
  id,
  nameText,
  oneOf,
  pageOf,
  pageQuery,
  type Static,
  t,
  text,
  timestamp,
} from '../http/schema-types.ts'

const name = nameText(200)
const description = text(0, 4000)
const maxMembers = t.Integer({ minimum: 1, maximum: 10_000, description: 'Not below the number of members' })

/** The roles that can be assigned. The owner changes only by a transfer. */
const assignableRoles = ['admin', 'editor', 'contributor', 'viewer'] as const
export type AssignableRole = (typeof assignableRoles)[number]
export const assignableRole = oneOf(assignableRoles)

export const teamParams = closed({ team_id: id('Team') })
export const memberParams = closed({ team_id: id('Team'), user_id: id('User') })
export const page = closed(pageQuery)

export const newTeam = closed({
  name,
  description: t.Optional(description),
  max_members: t.Optional(t.Integer({ ...maxMembers, description: '50 unless given' })),
})
export type NewTeam = Static<typeof newTeam>

export const teamChanges = t.Object(
  {
    name: t.Optional(name),
    description: t.Optional(description),
    max_members: t.Optional(maxMembers),
    requires_second_factor: t.Optional(
      t.Boolean({
        description: 'For the owner, after a recent authentication; true only for one with a second factor',
      }),
    ),
  },
  { additionalProperties: false, minProperties: 1 },
)
export type TeamChanges = Static<typeof teamChanges>

export const memberChange = closed({ role: assignableRole })
export const transfer = closed({ user_id: id('A member, who becomes the owner') })

export const team = closed({
  id: id('Team'),
  name: t.String(),
  description: t.String(),
  max_members: t.Integer(),
  owner_id: id('User'),
  role: oneOf(teamRoles),
  requires_second_factor: t.Boolean({
    description: 'Whether members without a second factor have no access through the team',
  }),
  created_at: timestamp(),
  updated_at: timestamp(),
})
export type Team = Static<typeof team>
export const teamPage = pageOf(team)

export const member = closed({
  user_id: id('User'),
  display_name: t.String(),
  role: oneOf(teamRoles),
  joined_at: timestamp(),
})
export type Member = Static<typeof member>
export const memberPage = pageOf(member)

const count = () => t.Integer({ minimum: 0 })
const countBy = <const T extends string>(names: readonly T[]) =>
  closed(Object.fromEntries(names.map((each) => [each, count()])) as Record<T, ReturnType<typeof count>>)

export const statistics = closed({
  members: closed({ total: count(), by_role: countBy(teamRoles) }),
  projects: t.Object(
    { total: count(), by_access_level: countBy(accessLevels) },
    { additionalProperties: false, description: 'Projects granted to the team, without private ones' },
  ),
  generations: t.Integer({ minimum: 0, description: 'Generations in these projects' }),
  pending_invitations: count(),
})
export type Statistics = Static<typeof statistics>
