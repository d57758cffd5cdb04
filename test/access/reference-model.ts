/**
 * The reference model: the rules of section 3 evaluated over whole tables, row by row. Slow, and shares nothing with
 * src/access but names. Where the two disagree, one of them is wrong.
 */
export type World = {
  users: {
    id: string
    status: 'active' | 'suspended' | 'deleted'
    role: 'user' | 'admin'
    second_factor?: boolean
  }[]
  teams: { id: string; requires_second_factor?: boolean }[]
  members: { team_id: string; user_id: string; role: 'owner' | 'admin' | 'editor' | 'contributor' | 'viewer' }[]
  projects: {
    id: string
    owner_id: string
    visibility: 'private' | 'team-only' | 'public'
    allow_derivatives: boolean
  }[]
  grants: { project_id: string; team_id: string; access_level: 'read' | 'write' | 'admin' }[]
  generations: { id: string; owner_id: string; project_id: string | null; completed?: boolean }[]
  media?: { id: string; owner_id: string; generation_id: string | null }[]
}

export type Resource = { type: 'project' | 'generation' | 'media'; id: string }

type Action = 'read' | 'download' | 'create' | 'write' | 'share' | 'delete' | 'admin'

const roleReaches = (role: World['members'][number]['role'], action: Action): boolean => {
  if (role === 'owner' || role === 'admin') return true
  if (action === 'delete' || action === 'admin') return false
  if (role === 'editor') return true
  if (action === 'write' || action === 'share') return false
  if (role === 'contributor') return true
  return action !== 'create'
}

const levelReaches = (level: World['grants'][number]['access_level'], action: Action): boolean => {
  if (action === 'read' || action === 'download') return true
  if (action === 'delete' || action === 'admin') return level === 'admin'
  return level === 'admin' || level === 'write'
}

/** A team that requires a second factor gives nothing to members without one. */
const isBarred = (world: World, userId: string, teamId: string): boolean => {
  for (const team of world.teams) {
    if (team.id !== teamId || !team.requires_second_factor) continue
    return !world.users.some((user) => user.id === userId && user.second_factor === true)
  }
  return false
}

const mayOnProject = (world: World, userId: string, action: Action, projectId: string): boolean => {
  for (const project of world.projects) {
    if (project.id !== projectId) continue
    if (project.owner_id === userId) return true
    if (project.visibility === 'private') return false
    if (project.visibility === 'public' && (action === 'read' || action === 'download')) return true
    for (const grant of world.grants) {
      if (grant.project_id !== projectId || isBarred(world, userId, grant.team_id)) continue
      for (const member of world.members) {
        if (member.team_id !== grant.team_id || member.user_id !== userId) continue
        if (roleReaches(member.role, action) && levelReaches(grant.access_level, action)) return true
      }
    }
  }
  return false
}

export const isActive = (world: World, userId: string): boolean =>
  world.users.some((user) => user.id === userId && user.status === 'active')

export const may = (world: World, userId: string, action: Action, resource: Resource): boolean => {
  if (!isActive(world, userId)) return false
  if (resource.type === 'project') return mayOnProject(world, userId, action, resource.id)
  if (resource.type === 'media') {
    for (const media of world.media ?? []) {
      if (media.id !== resource.id) continue
      if (media.generation_id === null) return media.owner_id === userId && action !== 'admin'
      for (const generation of world.generations) {
        if (generation.id !== media.generation_id || generation.completed === false) continue
        return may(world, userId, action, { type: 'generation', id: generation.id })
      }
    }
    return false
  }
  for (const generation of world.generations) {
    if (generation.id !== resource.id) continue
    if (generation.owner_id === userId) return action !== 'admin'
    return generation.project_id !== null && mayOnProject(world, userId, action, generation.project_id)
  }
  return false
}

/** Rule 4, for the parent. */
export const mayDerive = (world: World, userId: string, generationId: string): boolean => {
  if (!may(world, userId, 'read', { type: 'generation', id: generationId })) return false
  for (const generation of world.generations) {
    if (generation.id !== generationId) continue
    if (generation.owner_id === userId) return true
    for (const project of world.projects) if (project.id === generation.project_id) return project.allow_derivatives
  }
  return false
}

const byIdDescending = (one: string, other: string) => (one < other ? 1 : one > other ? -1 : 0)

export const accessible = (world: World, userId: string, type: 'project' | 'generation', action: Action): string[] =>
  (type === 'project' ? world.projects : world.generations)
    .map(({ id }) => id)
    .filter((id) => may(world, userId, action, { type, id }))
    .sort(byIdDescending)

/** The users who may, except those who may only because the project is public. */
export const who = (world: World, resource: Resource, action: Action): string[] => {
  const shown = { ...world, projects: world.projects.map(hidePublic) }
  return world.users
    .map(({ id }) => id)
    .filter((id) => may(shown, id, action, resource))
    .sort(byIdDescending)
}

const hidePublic = (project: World['projects'][number]): World['projects'][number] =>
  project.visibility === 'public' ? { ...project, visibility: 'team-only' } : project

/** Whether a user without any relation to the resource may. */
export const everyoneMay = (world: World, action: Action, resource: Resource): boolean => {
  const stranger = 'a stranger'
  return may(
    { ...world, users: [...world.users, { id: stranger, status: 'active', role: 'user' }] },
    stranger,
    action,
    resource,
  )
}
