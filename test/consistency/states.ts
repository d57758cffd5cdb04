import type { World } from '../access/reference-model.ts'
import type { Credential, Human, State } from './fixture.ts'

/** Pure functions from the state of a fixture before a change to the state after it. */
type Project = World['projects'][number]
type Role = World['members'][number]['role']
type Level = World['grants'][number]['access_level']

const withWorld = (state: State, change: Partial<World>): State => ({ ...state, world: { ...state.world, ...change } })

/** Null removes the member. */
export const withRole = (state: State, userId: string, role: Role | null): State => {
  const others = state.world.members.filter(({ user_id }) => user_id !== userId)
  return withWorld(state, {
    members: role === null ? others : [...others, { team_id: state.teamId, user_id: userId, role }],
  })
}

/** Null withdraws the grant. */
export const withLevel = (state: State, level: Level | null): State =>
  withWorld(state, {
    grants: level === null ? [] : [{ project_id: state.projectId, team_id: state.teamId, access_level: level }],
  })

export const projectOf = ({ world, projectId }: State): Project =>
  world.projects.find(({ id }) => id === projectId) as Project

export const withProject = (state: State, change: Partial<Project>): State =>
  withWorld(state, { projects: [{ ...projectOf(state), ...change }] })

/** Generations of the project stay with their owners. */
export const withoutProject = (state: State): State => {
  const left = withWorld(state, { projects: [], grants: [] })
  return left.world.generations.length === 0 ? left : withGenerationIn(left, null)
}

export const withNewProject = (state: State, project: Project): State => ({
  ...withWorld(state, { projects: [project] }),
  projectId: project.id,
})

export const withGenerationIn = (state: State, projectId: string | null): State =>
  withWorld(state, { generations: state.world.generations.map((each) => ({ ...each, project_id: projectId })) })

export const withoutGeneration = (state: State): State => withWorld(state, { generations: [] })

export const withNewGeneration = (state: State, id: string, ownerId: string): State => ({
  ...withWorld(state, { generations: [{ id, owner_id: ownerId, project_id: state.projectId }] }),
  generationId: id,
})

export const withoutTeam = (state: State): State => withWorld(state, { teams: [], members: [], grants: [] })

export const withNewTeam = (state: State, id: string, ownerId: string): State => ({
  ...withWorld(state, { teams: [{ id }], members: [{ team_id: id, user_id: ownerId, role: 'owner' }] }),
  teamId: id,
})

export const withoutCredentials = (state: State, isGone: (credential: Credential) => boolean): State => ({
  ...state,
  credentials: state.credentials.filter((credential) => !isGone(credential)),
})

export const withCredential = (state: State, credential: Credential): State => ({
  ...state,
  credentials: [...state.credentials, credential],
})

/** Whether the team of the fixture requires a second factor. */
export const withRequirement = (state: State, requires_second_factor: boolean): State =>
  withWorld(state, { teams: state.world.teams.map((team) => ({ ...team, requires_second_factor })) })

export const withSecondFactor = (state: State, userId: string, second_factor: boolean): State =>
  withWorld(state, { users: state.world.users.map((user) => (user.id === userId ? { ...user, second_factor } : user)) })

type Status = World['users'][number]['status']

const withStatus = (state: State, userId: string, status: Status): State =>
  withWorld(state, { users: state.world.users.map((user) => (user.id === userId ? { ...user, status } : user)) })

const withoutSessions = (state: State, userId: string): State =>
  withoutCredentials(state, (credential) => credential.kind === 'session' && credential.userId === userId)

/** A closed account has no memberships and no sessions. */
export const withClosed = (state: State, userId: string): State =>
  withoutSessions(withStatus(withRole(state, userId, null), userId, 'deleted'), userId)

/** A suspended account has no sessions and keeps its memberships. */
export const withSuspended = (state: State, userId: string): State =>
  withoutSessions(withStatus(state, userId, 'suspended'), userId)

/** A blocked account keeps its memberships and its sessions, which are refused meanwhile. */
export const withBlocked = (state: State, userId: string): State => withStatus(state, userId, 'suspended')

export const withReinstated = (state: State, userId: string): State => withStatus(state, userId, 'active')

/** A new user becomes the member of the fixture. */
export const withMember = (state: State, member: Human): State => ({
  ...withWorld(state, { users: [...state.world.users, { id: member.id, status: 'active', role: 'user' }] }),
  member,
})
