import { accessLevels, actions, generationStatuses, intents, visibilities } from '../access/policy/matrix.ts'
import { closed, id, oneOf, pageOf, pageQuery, type Static, t, text, timestamp } from '../http/schema-types.ts'

const name = text(1, 200)
const description = text(0, 4000)
const visibility = oneOf(visibilities)
const accessLevel = oneOf(accessLevels)
const allowDerivatives = t.Boolean({
  description: 'Whether users other than their owner may create children of the generations in this project',
})
const count = t.Integer({ minimum: 0 })

export const projectParams = closed({ project_id: id('Project') })

export const newProject = closed({
  name,
  description: t.Optional(description),
  visibility: t.Optional(visibility),
  allow_derivatives: t.Optional(allowDerivatives),
})
export type NewProject = Static<typeof newProject>

export const projectChanges = t.Object(
  {
    name: t.Optional(name),
    description: t.Optional(description),
    visibility: t.Optional(visibility),
    allow_derivatives: t.Optional(allowDerivatives),
  },
  { additionalProperties: false, minProperties: 1 },
)
export type ProjectChanges = Static<typeof projectChanges>

export const projectQuery = closed({ ...pageQuery, owner_id: t.Optional(id('Return only projects of this owner')) })

export const project = closed({
  id: id('Project'),
  owner_id: id('User'),
  name: t.String(),
  description: t.String(),
  visibility,
  allow_derivatives: allowDerivatives,
  created_at: timestamp(),
  updated_at: timestamp(),
})
export type Project = Static<typeof project>
export const projectPage = pageOf(project)

export const projectWithPermissions = closed({
  ...project.properties,
  permissions: t.Array(oneOf(actions), { description: 'Actions that the caller may do on the project' }),
})
export type ProjectWithPermissions = Static<typeof projectWithPermissions>

export const transfer = closed({ owner_id: id('An active account that may read the project through a team') })
export type Transfer = Static<typeof transfer>

export const grantParams = closed({ project_id: id('Project'), team_id: id('Team') })
export const grantQuery = closed(pageQuery)

export const newGrant = closed({
  team_id: id('A team of which the caller is owner or admin'),
  access_level: accessLevel,
})
export type NewGrant = Static<typeof newGrant>

export const grantChanges = closed({ access_level: accessLevel })
export type GrantChanges = Static<typeof grantChanges>

export const grant = closed({
  project_id: id('Project'),
  team_id: id('Team'),
  team_name: t.String(),
  access_level: accessLevel,
  granted_by: id('User'),
  created_at: timestamp(),
  updated_at: timestamp(),
})
export type Grant = Static<typeof grant>
export const grantPage = pageOf(grant)

const countsOf = <const T extends readonly string[]>(names: T) =>
  closed(Object.fromEntries(names.map((each) => [each, count])) as Record<T[number], typeof count>)

export const stats = closed({
  generations: closed({ total: count, by_status: countsOf(generationStatuses), by_intent: countsOf(intents) }),
  grants: closed({ total: count, by_access_level: countsOf(accessLevels) }),
  people: t.Integer({
    minimum: 0,
    description: 'Active accounts that may read the project: its owner and members of granted teams',
  }),
})
export type Stats = Static<typeof stats>
