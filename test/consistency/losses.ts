import { type Human, pick, type Scene, type SessionCredential, type State } from './fixture.ts'
import type { Population } from './population.ts'
import * as states from './states.ts'

/** One call that changes a scene. `to` is what it makes of it: known before, or, where it makes something, by its answer. */
export type Step = {
  readonly as: SessionCredential
  readonly method: 'POST' | 'PATCH' | 'DELETE'
  readonly path: string
  readonly body?: object
  // biome-ignore lint/suspicious/noExplicitAny: as sent
  readonly to: State | ((body: any) => State)
}

export type Stagehand = {
  readonly population: Population
  /** Sends a call until it is done, judges what it changed, and resolves to its answer. */
  // biome-ignore lint/suspicious/noExplicitAny: as sent
  act(scene: Scene, name: string, step: Step): Promise<any>
  /** Something came about by hand that nobody could have asked about before. */
  appear(scene: Scene, name: string, to: State): void
}

/** A way to take access away, by one call, and to give it back. */
export type Loss = {
  readonly name: string
  readonly take: (scene: Scene, hand: Stagehand) => Step
  readonly giveBack: (scene: Scene, hand: Stagehand, before: State) => Promise<void>
}

const sessionOf = (scene: Scene, { id }: Human): SessionCredential =>
  scene.history.state.credentials.find(
    (credential): credential is SessionCredential => credential.kind === 'session' && credential.userId === id,
  ) as SessionCredential

const teamPath = ({ history }: Scene) => `/api/v1/teams/${history.state.teamId}`
const memberPath = (scene: Scene) => `${teamPath(scene)}/members/${scene.history.state.member.id}`
const projectPath = ({ history }: Scene) => `/api/v1/projects/${history.state.projectId}`
const grantPath = (scene: Scene) => `${projectPath(scene)}/teams/${scene.history.state.teamId}`
const generationPath = ({ history }: Scene) => `/api/v1/generations/${history.state.generationId}`

/** Invites somebody and has the invitation accepted, as an editor. */
const join = async (scene: Scene, { act }: Stagehand, name: string, who: Human) => {
  const { state } = scene.history
  const { secret } = await act(scene, name, {
    as: scene.ownerSession,
    method: 'POST',
    path: `${teamPath(scene)}/invitations`,
    body: { email: who.email, role: 'editor' },
    to: state,
  })
  await act(scene, name, {
    as: sessionOf(scene, who),
    method: 'POST',
    path: '/api/v1/teams/invitations/accept',
    body: { secret },
    to: states.withRole(state, who.id, 'editor'),
  })
}

const joinAgain: Loss['giveBack'] = (scene, hand) => join(scene, hand, 'member joins', scene.history.state.member)

const grant = (scene: Scene, { act }: Stagehand, name: string) =>
  act(scene, name, {
    as: scene.ownerSession,
    method: 'POST',
    path: `${projectPath(scene)}/teams`,
    body: { team_id: scene.history.state.teamId, access_level: 'write' },
    to: states.withLevel(scene.history.state, 'write'),
  })

/** As the owner of everything. */
const byOwner = (scene: Scene, method: Step['method'], path: string, to: Step['to'], body?: object): Step => ({
  as: scene.ownerSession,
  method,
  path,
  to,
  ...(body && { body }),
})

const openSessions = async (scene: Scene, { population, appear }: Stagehand, member: Human, count: number) => {
  for (let made = 0; made < count; made += 1) {
    const session = await population.session(member)
    appear(scene, 'session opened', states.withCredential(scene.history.state, session))
  }
}

const membership: readonly Loss[] = [
  {
    name: 'member removed',
    take: (scene) => {
      const { state } = scene.history
      return byOwner(scene, 'DELETE', memberPath(scene), states.withRole(state, state.member.id, null))
    },
    giveBack: joinAgain,
  },
  {
    name: 'member lowered',
    take: (scene) => {
      const { state } = scene.history
      const role = pick(['viewer', 'contributor'] as const)
      return byOwner(scene, 'PATCH', memberPath(scene), states.withRole(state, state.member.id, role), { role })
    },
    giveBack: async (scene, { act }, before) => {
      await act(scene, 'member raised', byOwner(scene, 'PATCH', memberPath(scene), before, { role: 'editor' }))
    },
  },
  {
    name: 'member leaves',
    take: (scene) => {
      const { state } = scene.history
      return {
        as: sessionOf(scene, state.member),
        method: 'POST',
        path: `${teamPath(scene)}/leave`,
        to: states.withRole(state, state.member.id, null),
      }
    },
    giveBack: joinAgain,
  },
  {
    name: 'team deleted',
    take: (scene) => byOwner(scene, 'DELETE', teamPath(scene), states.withoutTeam(scene.history.state)),
    giveBack: async (scene, hand) => {
      const before = scene.history.state
      const founded: Step['to'] = ({ id }) => states.withNewTeam(before, id, scene.owner.id)
      await hand.act(scene, 'team founded', byOwner(scene, 'POST', '/api/v1/teams', founded, { name: 't' }))
      await grant(scene, hand, 'team let in')
      await join(scene, hand, 'heir joins', scene.heir)
      await joinAgain(scene, hand, before)
    },
  },
]

const grants: readonly Loss[] = [
  {
    name: 'grant withdrawn',
    take: (scene) => byOwner(scene, 'DELETE', grantPath(scene), states.withLevel(scene.history.state, null)),
    giveBack: async (scene, hand) => {
      await grant(scene, hand, 'grant given')
    },
  },
  {
    name: 'grant lowered',
    take: (scene) =>
      byOwner(scene, 'PATCH', grantPath(scene), states.withLevel(scene.history.state, 'read'), {
        access_level: 'read',
      }),
    giveBack: async (scene, { act }, before) => {
      await act(scene, 'grant raised', byOwner(scene, 'PATCH', grantPath(scene), before, { access_level: 'write' }))
    },
  },
]

const projects: readonly Loss[] = [
  {
    name: 'visibility narrowed',
    take: (scene) => {
      const { state } = scene.history
      const wide = states.projectOf(state).visibility === 'public'
      const visibility = wide ? pick(['team-only', 'private'] as const) : 'private'
      return byOwner(scene, 'PATCH', projectPath(scene), states.withProject(state, { visibility }), { visibility })
    },
    giveBack: async (scene, { act }, before) => {
      const { visibility } = states.projectOf(before)
      await act(scene, 'visibility widened', byOwner(scene, 'PATCH', projectPath(scene), before, { visibility }))
    },
  },
  {
    name: 'project transferred',
    take: (scene) => {
      const to = states.withProject(scene.history.state, { owner_id: scene.heir.id })
      return byOwner(scene, 'POST', `${projectPath(scene)}/transfer`, to, { owner_id: scene.heir.id })
    },
    giveBack: async (scene, { act }, before) => {
      const back = byOwner(scene, 'POST', `${projectPath(scene)}/transfer`, before, { owner_id: scene.owner.id })
      await act(scene, 'project handed back', { ...back, as: scene.heirSession })
    },
  },
  {
    name: 'project deleted',
    take: (scene) => byOwner(scene, 'DELETE', projectPath(scene), states.withoutProject(scene.history.state)),
    giveBack: async (scene, hand, before) => {
      const body = { name: 'p', visibility: states.projectOf(before).visibility }
      const empty = scene.history.state
      const made: Step['to'] = ({ id }) => states.withNewProject(empty, { ...states.projectOf(before), id })
      await hand.act(scene, 'project made', byOwner(scene, 'POST', '/api/v1/projects', made, body))
      await grant(scene, hand, 'team let in')
      const { state } = scene.history
      const project_id = state.projectId
      const moved = states.withGenerationIn(state, project_id)
      await hand.act(
        scene,
        'generation moved in',
        byOwner(scene, 'PATCH', generationPath(scene), moved, { project_id }),
      )
    },
  },
]

const generations: readonly Loss[] = [
  {
    name: 'generation moved out',
    take: (scene) => {
      const to = states.withGenerationIn(scene.history.state, null)
      return byOwner(scene, 'PATCH', generationPath(scene), to, { project_id: null })
    },
    giveBack: async (scene, { act }, before) => {
      const body = { project_id: before.projectId }
      await act(scene, 'generation moved in', byOwner(scene, 'PATCH', generationPath(scene), before, body))
    },
  },
  {
    name: 'generation deleted',
    take: (scene) => byOwner(scene, 'DELETE', generationPath(scene), states.withoutGeneration(scene.history.state)),
    giveBack: async (scene, { act }) => {
      const { state } = scene.history
      const body = { project_id: state.projectId, model: 'local/procedural', prompt: 'p' }
      const made: Step['to'] = ({ id }) => states.withNewGeneration(state, id, scene.owner.id)
      await act(scene, 'generation made', byOwner(scene, 'POST', '/api/v1/generations', made, body))
    },
  },
]

/** A way to end sessions of the member, who gets as many again. */
const ending = (
  name: string,
  path: (ended: SessionCredential) => readonly [Step['method'], string],
  count: 1 | 2,
): Loss => ({
  name,
  take: (scene) => {
    const { state } = scene.history
    const session = sessionOf(scene, state.member)
    const [method, at] = path(session)
    const to = states.withoutCredentials(
      state,
      (each) => each.kind === 'session' && each.userId === state.member.id && (count === 2 || each.id === session.id),
    )
    return { as: session, method, path: at, to }
  },
  giveBack: (scene, hand) => openSessions(scene, hand, scene.history.state.member, count),
})

/** What concerns a person as a whole. */
const people: readonly Loss[] = [
  ending('session ended', ({ id }) => ['DELETE', `/api/v1/auth/sessions/${id}`], 1),
  ending('signed out', () => ['POST', '/api/v1/auth/logout'], 1),
  ending('signed out everywhere', () => ['POST', '/api/v1/auth/logout-all'], 2),
  {
    name: 'account suspended',
    take: (scene, { population }) => {
      const { state } = scene.history
      const path = `/api/v1/users/${state.member.id}`
      const to = states.withSuspended(state, state.member.id)
      return { as: population.operator, method: 'PATCH', path, body: { status: 'suspended' }, to }
    },
    giveBack: async (scene, hand) => {
      const { state } = scene.history
      await hand.act(scene, 'account reinstated', {
        as: hand.population.operator,
        method: 'PATCH',
        path: `/api/v1/users/${state.member.id}`,
        body: { status: 'active' },
        to: states.withReinstated(state, state.member.id),
      })
      await openSessions(scene, hand, state.member, 2)
    },
  },
  {
    name: 'account closed',
    take: (scene) => {
      const { state } = scene.history
      const to = states.withClosed(state, state.member.id)
      return { as: sessionOf(scene, state.member), method: 'DELETE', path: '/api/v1/auth/me', to }
    },
    giveBack: async (scene, hand, before) => {
      const successor = await hand.population.human()
      hand.appear(scene, 'member replaced', states.withMember(scene.history.state, successor))
      await openSessions(scene, hand, successor, 2)
      await joinAgain(scene, hand, before)
    },
  },
]

const keys: readonly Loss[] = [
  {
    name: 'service key revoked',
    take: (scene, { population }) => {
      const { state } = scene.history
      const id = state.credentials.find(({ kind }) => kind === 'key')?.id
      const to = states.withoutCredentials(state, (credential) => credential.id === id)
      return { as: population.operator, method: 'DELETE', path: `/api/v1/service-keys/${id}`, to }
    },
    giveBack: async (scene, { act, population }) => {
      const { state } = scene.history
      await act(scene, 'service key made', {
        as: population.operator,
        method: 'POST',
        path: '/api/v1/service-keys',
        body: { name: 'k', scopes: ['authorization:check'] },
        to: ({ id, key }) => states.withCredential(state, { kind: 'key', id, token: key }),
      })
    },
  },
]

export const losses: readonly Loss[] = [...membership, ...grants, ...projects, ...generations, ...people, ...keys]
