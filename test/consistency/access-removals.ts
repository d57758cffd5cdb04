import { Secret, TOTP } from 'otpauth'
import { type Fixture, type Human, pick, type SessionCredential, type State } from './fixture.ts'
import type { Population } from './population.ts'
import * as states from './states.ts'

/** One call that changes a fixture, and the state after it: known before, or computed from the answer with the new id. */
export type Step = {
  readonly as: SessionCredential
  readonly method: 'POST' | 'PATCH' | 'DELETE'
  readonly path: string
  readonly body?: object
  // biome-ignore lint/suspicious/noExplicitAny: as sent
  readonly to: State | ((body: any) => State)
}

export type Driver = {
  readonly population: Population
  /** Sends a call until it succeeds, probes its effect, and resolves to the answer. */
  // biome-ignore lint/suspicious/noExplicitAny: as sent
  act(fixture: Fixture, name: string, step: Step): Promise<any>
  /** Records a row inserted directly, which no earlier question can be about. */
  record(fixture: Fixture, name: string, to: State): void
}

/** A call that removes access, and the calls that restore it. */
export type AccessRemoval = {
  readonly name: string
  readonly remove: (fixture: Fixture, driver: Driver) => Step
  readonly restore: (fixture: Fixture, driver: Driver, before: State) => Promise<void>
}

const sessionOf = (fixture: Fixture, { id }: Human): SessionCredential =>
  fixture.history.state.credentials.find(
    (credential): credential is SessionCredential => credential.kind === 'session' && credential.userId === id,
  ) as SessionCredential

const teamPath = ({ history }: Fixture) => `/api/v1/teams/${history.state.teamId}`
const memberPath = (fixture: Fixture) => `${teamPath(fixture)}/members/${fixture.history.state.member.id}`
const projectPath = ({ history }: Fixture) => `/api/v1/projects/${history.state.projectId}`
const grantPath = (fixture: Fixture) => `${projectPath(fixture)}/teams/${fixture.history.state.teamId}`
const generationPath = ({ history }: Fixture) => `/api/v1/generations/${history.state.generationId}`

/** Invites a user as an editor and accepts the invitation. */
const join = async (fixture: Fixture, { act }: Driver, name: string, who: Human) => {
  const { state } = fixture.history
  const { secret } = await act(fixture, name, {
    as: fixture.ownerSession,
    method: 'POST',
    path: `${teamPath(fixture)}/invitations`,
    body: { email: who.email, role: 'editor' },
    to: state,
  })
  await act(fixture, name, {
    as: sessionOf(fixture, who),
    method: 'POST',
    path: '/api/v1/teams/invitations/accept',
    body: { secret },
    to: states.withRole(state, who.id, 'editor'),
  })
}

const joinAgain: AccessRemoval['restore'] = (fixture, driver) =>
  join(fixture, driver, 'member joins', fixture.history.state.member)

const grant = (fixture: Fixture, { act }: Driver, name: string) =>
  act(fixture, name, {
    as: fixture.ownerSession,
    method: 'POST',
    path: `${projectPath(fixture)}/teams`,
    body: { team_id: fixture.history.state.teamId, access_level: 'write' },
    to: states.withLevel(fixture.history.state, 'write'),
  })

/** A call by the owner of the fixture. */
const byOwner = (fixture: Fixture, method: Step['method'], path: string, to: Step['to'], body?: object): Step => ({
  as: fixture.ownerSession,
  method,
  path,
  to,
  ...(body && { body }),
})

const openSessions = async (fixture: Fixture, { population, record }: Driver, member: Human, count: number) => {
  for (let made = 0; made < count; made += 1) {
    const session = await population.createSession(member)
    record(fixture, 'session opened', states.withCredential(fixture.history.state, session))
  }
}

const membership: readonly AccessRemoval[] = [
  {
    name: 'member removed',
    remove: (fixture) => {
      const { state } = fixture.history
      return byOwner(fixture, 'DELETE', memberPath(fixture), states.withRole(state, state.member.id, null))
    },
    restore: joinAgain,
  },
  {
    name: 'member lowered',
    remove: (fixture) => {
      const { state } = fixture.history
      const role = pick(['viewer', 'contributor'] as const)
      return byOwner(fixture, 'PATCH', memberPath(fixture), states.withRole(state, state.member.id, role), { role })
    },
    restore: async (fixture, { act }, before) => {
      await act(fixture, 'member raised', byOwner(fixture, 'PATCH', memberPath(fixture), before, { role: 'editor' }))
    },
  },
  {
    name: 'member leaves',
    remove: (fixture) => {
      const { state } = fixture.history
      return {
        as: sessionOf(fixture, state.member),
        method: 'POST',
        path: `${teamPath(fixture)}/leave`,
        to: states.withRole(state, state.member.id, null),
      }
    },
    restore: joinAgain,
  },
  {
    name: 'team deleted',
    remove: (fixture) => byOwner(fixture, 'DELETE', teamPath(fixture), states.withoutTeam(fixture.history.state)),
    restore: async (fixture, driver) => {
      const before = fixture.history.state
      const founded: Step['to'] = ({ id }) => states.withNewTeam(before, id, fixture.owner.id)
      await driver.act(fixture, 'team founded', byOwner(fixture, 'POST', '/api/v1/teams', founded, { name: 't' }))
      await grant(fixture, driver, 'team let in')
      await join(fixture, driver, 'heir joins', fixture.heir)
      await joinAgain(fixture, driver, before)
    },
  },
]

const factors: readonly AccessRemoval[] = [
  {
    name: 'second factor demanded',
    remove: (fixture) => {
      const to = states.withRequirement(fixture.history.state, true)
      return byOwner(fixture, 'PATCH', teamPath(fixture), to, { requires_second_factor: true })
    },
    // The member sets up an authenticator app and gets access, removes it and loses access, and then it is not demanded any more.
    // The first factor has the other sessions authenticate again.
    restore: async (fixture, { act, population }) => {
      const { state } = fixture.history
      const { id } = state.member
      const as = sessionOf(fixture, state.member)
      const totp = '/api/v1/auth/totp'
      const { secret } = await act(fixture, 'totp started', { as, method: 'POST', path: totp, to: state })
      const enrolled = states.withSecondFactor(state, id, true)
      const body = { code: TOTP.generate({ secret: Secret.fromBase32(secret) }) }
      await act(fixture, 'totp confirmed', { as, method: 'POST', path: `${totp}/confirm`, body, to: enrolled })
      await act(fixture, 'totp removed', { as, method: 'DELETE', path: totp, to: state })
      await population.authenticateAgain(id)
      const free = states.withRequirement(state, false)
      const lifted = byOwner(fixture, 'PATCH', teamPath(fixture), free, { requires_second_factor: false })
      await act(fixture, 'second factor not demanded', lifted)
    },
  },
]

const grants: readonly AccessRemoval[] = [
  {
    name: 'grant withdrawn',
    remove: (fixture) => byOwner(fixture, 'DELETE', grantPath(fixture), states.withLevel(fixture.history.state, null)),
    restore: async (fixture, driver) => {
      await grant(fixture, driver, 'grant given')
    },
  },
  {
    name: 'grant lowered',
    remove: (fixture) =>
      byOwner(fixture, 'PATCH', grantPath(fixture), states.withLevel(fixture.history.state, 'read'), {
        access_level: 'read',
      }),
    restore: async (fixture, { act }, before) => {
      await act(
        fixture,
        'grant raised',
        byOwner(fixture, 'PATCH', grantPath(fixture), before, { access_level: 'write' }),
      )
    },
  },
]

const projects: readonly AccessRemoval[] = [
  {
    name: 'visibility narrowed',
    remove: (fixture) => {
      const { state } = fixture.history
      const wide = states.projectOf(state).visibility === 'public'
      const visibility = wide ? pick(['team-only', 'private'] as const) : 'private'
      return byOwner(fixture, 'PATCH', projectPath(fixture), states.withProject(state, { visibility }), { visibility })
    },
    restore: async (fixture, { act }, before) => {
      const { visibility } = states.projectOf(before)
      await act(fixture, 'visibility widened', byOwner(fixture, 'PATCH', projectPath(fixture), before, { visibility }))
    },
  },
  {
    name: 'project transferred',
    remove: (fixture) => {
      const to = states.withProject(fixture.history.state, { owner_id: fixture.heir.id })
      return byOwner(fixture, 'POST', `${projectPath(fixture)}/transfer`, to, { owner_id: fixture.heir.id })
    },
    restore: async (fixture, { act }, before) => {
      const back = byOwner(fixture, 'POST', `${projectPath(fixture)}/transfer`, before, { owner_id: fixture.owner.id })
      await act(fixture, 'project handed back', { ...back, as: fixture.heirSession })
    },
  },
  {
    name: 'project deleted',
    remove: (fixture) => byOwner(fixture, 'DELETE', projectPath(fixture), states.withoutProject(fixture.history.state)),
    restore: async (fixture, driver, before) => {
      const body = { name: 'p', visibility: states.projectOf(before).visibility }
      const empty = fixture.history.state
      const made: Step['to'] = ({ id }) => states.withNewProject(empty, { ...states.projectOf(before), id })
      await driver.act(fixture, 'project made', byOwner(fixture, 'POST', '/api/v1/projects', made, body))
      await grant(fixture, driver, 'team let in')
      const { state } = fixture.history
      const project_id = state.projectId
      const moved = states.withGenerationIn(state, project_id)
      await driver.act(
        fixture,
        'generation moved in',
        byOwner(fixture, 'PATCH', generationPath(fixture), moved, { project_id }),
      )
    },
  },
]

const generations: readonly AccessRemoval[] = [
  {
    name: 'generation moved out',
    remove: (fixture) => {
      const to = states.withGenerationIn(fixture.history.state, null)
      return byOwner(fixture, 'PATCH', generationPath(fixture), to, { project_id: null })
    },
    restore: async (fixture, { act }, before) => {
      const body = { project_id: before.projectId }
      await act(fixture, 'generation moved in', byOwner(fixture, 'PATCH', generationPath(fixture), before, body))
    },
  },
  {
    name: 'generation deleted',
    remove: (fixture) =>
      byOwner(fixture, 'DELETE', generationPath(fixture), states.withoutGeneration(fixture.history.state)),
    restore: async (fixture, { act }) => {
      const { state } = fixture.history
      const body = { project_id: state.projectId, model: 'local/procedural', prompt: 'p' }
      const made: Step['to'] = ({ id }) => states.withNewGeneration(state, id, fixture.owner.id)
      await act(fixture, 'generation made', byOwner(fixture, 'POST', '/api/v1/generations', made, body))
    },
  },
]

/** Ends sessions of the member, and opens as many again. */
const ending = (
  name: string,
  path: (ended: SessionCredential) => readonly [Step['method'], string],
  count: 1 | 2,
): AccessRemoval => ({
  name,
  remove: (fixture) => {
    const { state } = fixture.history
    const session = sessionOf(fixture, state.member)
    const [method, at] = path(session)
    const to = states.withoutCredentials(
      state,
      (each) => each.kind === 'session' && each.userId === state.member.id && (count === 2 || each.id === session.id),
    )
    return { as: session, method, path: at, to }
  },
  restore: (fixture, driver) => openSessions(fixture, driver, fixture.history.state.member, count),
})

/** Removals that concern a whole account. */
const people: readonly AccessRemoval[] = [
  ending('session ended', ({ id }) => ['DELETE', `/api/v1/auth/sessions/${id}`], 1),
  ending('signed out', () => ['POST', '/api/v1/auth/logout'], 1),
  ending('signed out everywhere', () => ['POST', '/api/v1/auth/logout-all'], 2),
  {
    name: 'account suspended',
    remove: (fixture, { population }) => {
      const { state } = fixture.history
      const path = `/api/v1/users/${state.member.id}`
      const to = states.withSuspended(state, state.member.id)
      return { as: population.operator, method: 'PATCH', path, body: { status: 'suspended' }, to }
    },
    restore: async (fixture, driver) => {
      const { state } = fixture.history
      await driver.act(fixture, 'account reinstated', {
        as: driver.population.operator,
        method: 'PATCH',
        path: `/api/v1/users/${state.member.id}`,
        body: { status: 'active' },
        to: states.withReinstated(state, state.member.id),
      })
      await openSessions(fixture, driver, state.member, 2)
    },
  },
  {
    name: 'account closed',
    remove: (fixture) => {
      const { state } = fixture.history
      const to = states.withClosed(state, state.member.id)
      return { as: sessionOf(fixture, state.member), method: 'DELETE', path: '/api/v1/auth/me', to }
    },
    restore: async (fixture, driver, before) => {
      const successor = await driver.population.createHuman()
      driver.record(fixture, 'member replaced', states.withMember(fixture.history.state, successor))
      await openSessions(fixture, driver, successor, 2)
      await joinAgain(fixture, driver, before)
    },
  },
]

const keyOf = ({ credentials }: State) => credentials.find(({ kind }) => kind === 'key')

const keys: readonly AccessRemoval[] = [
  {
    name: 'service key revoked',
    remove: (fixture, { population }) => {
      const { state } = fixture.history
      const id = state.credentials.find(({ kind }) => kind === 'key')?.id
      const to = states.withoutCredentials(state, (credential) => credential.id === id)
      return { as: population.operator, method: 'DELETE', path: `/api/v1/service-keys/${id}`, to }
    },
    restore: async (fixture, { act, population }) => {
      const { state } = fixture.history
      await act(fixture, 'service key made', {
        as: population.operator,
        method: 'POST',
        path: '/api/v1/service-keys',
        body: { name: 'k', scopes: ['authorization:check'] },
        to: ({ id, key }) => states.withCredential(state, { kind: 'key', id, token: key }),
      })
    },
  },
]

const blocksPath = '/api/v1/security/blocks'

/** Blocks of a target, which operators set and remove. */
const blocks: readonly AccessRemoval[] = [
  {
    name: 'account blocked',
    remove: (fixture, { population }) => {
      const { state } = fixture.history
      const to = states.withBlocked(state, state.member.id)
      const body = { kind: 'user', value: state.member.id }
      return { as: population.operator, method: 'POST', path: blocksPath, body, to }
    },
    restore: async (fixture, { act, population }, before) => {
      const path = `${blocksPath}/${await population.findBlock(fixture.history.state.member.id)}`
      await act(fixture, 'block of account removed', { as: population.operator, method: 'DELETE', path, to: before })
    },
  },
  {
    name: 'service key blocked',
    remove: (fixture, { population }) => {
      const { state } = fixture.history
      const id = keyOf(state)?.id
      const to = states.withoutCredentials(state, (credential) => credential.id === id)
      return { as: population.operator, method: 'POST', path: blocksPath, body: { kind: 'key', value: id }, to }
    },
    restore: async (fixture, { act, population }, before) => {
      const path = `${blocksPath}/${await population.findBlock(keyOf(before)?.id ?? '')}`
      await act(fixture, 'block of service key removed', {
        as: population.operator,
        method: 'DELETE',
        path,
        to: before,
      })
    },
  },
]

export const accessRemovals: readonly AccessRemoval[] = [
  ...membership,
  ...factors,
  ...grants,
  ...projects,
  ...generations,
  ...people,
  ...keys,
  ...blocks,
]
