import { visibilities } from '../access/model.ts'
import { closed, id, oneOf, pageOf, pageQuery, type Static, t, text, timestamp } from '../schema.ts'

const name = text(1, 200)
const description = text(0, 4000)
const visibility = oneOf(visibilities)

export const projectParams = closed({ project_id: id('Project') })

export const newProject = closed({
  name,
  description: t.Optional(description),
  visibility: t.Optional(visibility),
})
export type NewProject = Static<typeof newProject>

export const projectChanges = t.Object(
  { name: t.Optional(name), description: t.Optional(description), visibility: t.Optional(visibility) },
  { additionalProperties: false, minProperties: 1 },
)
export type ProjectChanges = Static<typeof projectChanges>

export const projectQuery = closed({ ...pageQuery, owner_id: t.Optional(id('Only projects of this owner')) })

export const project = closed({
  id: id('Project'),
  owner_id: id('User'),
  name: t.String(),
  description: t.String(),
  visibility,
  created_at: timestamp(),
  updated_at: timestamp(),
})
export type Project = Static<typeof project>
export const projectPage = pageOf(project)
