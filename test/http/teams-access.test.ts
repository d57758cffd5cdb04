import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { findAccessDifferences } from '../../src/access/cache/effective-access-store.ts'
import { actions, type TeamRole, teamRoles } from '../../src/access/policy/matrix.ts'
import type { Person } from '../harness.ts'
import { outcomeOf, startTeamFixture, type TeamFixture, type TeamPeople } from '../teams/fixture.ts'

const path = '/api/v1/teams'

let fixture: TeamFixture
let people: TeamPeople

beforeAll(async () => {
  fixture = await startTeamFixture()
  people = await fixture.people()
})
afterAll(async () => {
  expect(await findAccessDifferences(fixture.services.database.admin)).toEqual([])
  await fixture.close()
})

const as = ({ token }: Person) => ({ token })

/** The actions that a user may do on a project. Each is checked, so its facts are cached afterwards. */
const allowedActions = async (caller: Person, projectId: string): Promise<string[]> => {
  const checks = actions.map((action) => ({ action, resource: { type: 'project', id: projectId } }))
  const { body } = await fixture.client.post('/api/v1/authorization/check/batch', { checks }, as(caller))
  return actions.filter((_, index) => body.results[index].allowed)
}
const reads = async (caller: Person, projectId: string) =>
  (await fixture.client.get(`/api/v1/projects/${projectId}`, as(caller))).status
const setRole = (by: Person, id: string, member: Person, role: TeamRole) =>
  fixture.client.patch(`${path}/${id}/members/${member.id}`, { role }, as(by))
const join = async (by: Person, id: string, caller: Person, role: TeamRole = 'viewer') => {
  const { secret } = await fixture.invite(by, id, caller.email, role)
  return fixture.accept(caller, secret)
}

const everything: string[] = [...actions]
const byRole: Record<TeamRole, string[]> = {
  owner: everything,
  admin: everything,
  editor: ['read', 'download', 'create', 'write', 'share'],
  contributor: ['read', 'download', 'create'],
  viewer: ['read', 'download'],
}

describe('the first check after a change of a team that has a grant uses the new access', () => {
  test('when a member joins or is removed', async () => {
    const id = await fixture.createTeamOf(people)
    const project = await fixture.shareProject(people.stranger, id)
    const guest = await fixture.person()
    for (let round = 0; round < 5; round += 1) {
      expect([await allowedActions(guest, project), await reads(guest, project)]).toEqual([[], 404])
      expect(outcomeOf(await join(people.owner, id, guest, 'editor'))).toBe('200')
      expect([await allowedActions(guest, project), await reads(guest, project)]).toEqual([byRole.editor, 200])
      expect(outcomeOf(await fixture.client.delete(`${path}/${id}/members/${guest.id}`, as(people.admin)))).toBe('204')
    }
    expect([await allowedActions(guest, project), await reads(guest, project)]).toEqual([[], 404])
  })

  test('when a member leaves', async () => {
    const id = await fixture.createTeamOf(people)
    const project = await fixture.shareProject(people.stranger, id)
    expect(await allowedActions(people.viewer, project)).toEqual(byRole.viewer)
    expect(outcomeOf(await fixture.client.post(`${path}/${id}/leave`, undefined, as(people.viewer)))).toBe('204')
    expect(await allowedActions(people.viewer, project)).toEqual([])
  })

  test('when the role of a member changes', async () => {
    const id = await fixture.createTeamOf(people)
    const project = await fixture.shareProject(people.stranger, id)
    for (const role of ['editor', 'viewer', 'admin', 'contributor', 'admin', 'viewer'] as const) {
      expect(outcomeOf(await setRole(people.owner, id, people.other_viewer, role))).toBe('200')
      expect(await allowedActions(people.other_viewer, project)).toEqual(byRole[role])
    }
  })

  test('limited by the access level of the grant', async () => {
    const id = await fixture.createTeamOf(people)
    const project = await fixture.shareProject(people.stranger, id, 'read')
    for (const role of teamRoles) expect(await allowedActions(people[role], project)).toEqual(['read', 'download'])
  })

  test('for the previous and the new owner after a transfer', async () => {
    const id = await fixture.createTeamOf(people)
    const project = await fixture.shareProject(people.stranger, id)
    expect(await allowedActions(people.viewer, project)).toEqual(byRole.viewer)
    await fixture.client.post(`${path}/${id}/transfer`, { user_id: people.viewer.id }, as(people.owner))
    expect(await allowedActions(people.viewer, project)).toEqual(byRole.owner)
    expect(await allowedActions(people.owner, project)).toEqual(byRole.admin)
    expect(outcomeOf(await setRole(people.viewer, id, people.owner, 'viewer'))).toBe('200')
    expect(await allowedActions(people.owner, project)).toEqual(byRole.viewer)
  })

  test('for all members when the team is deleted; access through another team remains', async () => {
    const id = await fixture.createTeamOf(people)
    const other = await fixture.createTeam(people.owner, [[people.viewer, 'editor']])
    const project = await fixture.shareProject(people.stranger, id)
    await fixture.grant(project, other, 'write', people.stranger)
    for (const role of teamRoles) expect((await allowedActions(people[role], project)).length).toBeGreaterThan(1)
    expect(outcomeOf(await fixture.client.delete(`${path}/${id}`, as(people.owner)))).toBe('204')
    expect(await allowedActions(people.viewer, project)).toEqual(byRole.editor)
    expect(await allowedActions(people.owner, project)).toEqual(byRole.editor)
    for (const role of ['admin', 'editor', 'contributor'] as const)
      expect(await allowedActions(people[role], project)).toEqual([])
    expect(await allowedActions(people.stranger, project)).toEqual(everything)
  })

  test('and a grant on a private project gives no access', async () => {
    const id = await fixture.createTeamOf(people)
    const project = await fixture.shareProject(people.stranger, id, 'admin', 'private')
    const guest = await fixture.person()
    await join(people.owner, id, guest)
    for (const role of teamRoles) expect(await allowedActions(people[role], project)).toEqual([])
    expect(await allowedActions(guest, project)).toEqual([])
  })
})

test('under constant checks, no answer is older than the last change that was acknowledged before the check', async () => {
  const id = await fixture.createTeamOf(people)
  const project = await fixture.shareProject(people.stranger, id)
  const guest = await fixture.person()
  type Span = { from: number; to: number }
  const changes: (Span & { member: boolean })[] = []
  const answers: (Span & { allowed: boolean })[] = []
  let isOver = false
  const checkRepeatedly = async () => {
    while (!isOver) {
      const from = performance.now()
      const allowed = await fixture.isAllowed(guest, 'read', project)
      answers.push({ from, to: performance.now(), allowed })
    }
  }
  const change = async (member: boolean, work: () => Promise<{ status: number }>) => {
    const from = performance.now()
    expect((await work()).status).toBeLessThan(300)
    changes.push({ member, from, to: performance.now() })
  }
  const checkers = Array.from({ length: 6 }, checkRepeatedly)
  for (let round = 0; round < 60; round += 1) {
    const { secret } = await fixture.invite(people.owner, id, guest.email)
    await change(true, () => fixture.accept(guest, secret))
    await change(false, () => fixture.client.delete(`${path}/${id}/members/${guest.id}`, as(people.owner)))
  }
  isOver = true
  await Promise.all(checkers)
  /** An answer is correct if it fits the last acknowledged change, or one that was in progress during the check. */
  const stale = answers.filter(({ from, to, allowed }) => {
    const acknowledged = changes.findLast((change) => change.to <= from)?.member ?? false
    const inProgress = changes.filter((change) => change.from <= to && change.to > from).map(({ member }) => member)
    return ![acknowledged, ...inProgress].includes(allowed)
  })
  expect(stale).toEqual([])
  expect(answers.length).toBeGreaterThan(500)
  expect(answers.filter(({ allowed }) => allowed).length).toBeGreaterThan(50)
  expect(answers.filter(({ allowed }) => !allowed).length).toBeGreaterThan(50)
})

describe('an account that is being closed', () => {
  const close = (caller: Person) => fixture.client.delete('/api/v1/auth/me', as(caller))

  test('leaves the teams that it does not own, and its address is deleted from all invitations', async () => {
    const guest = await fixture.person()
    const joined = await fixture.createTeam(people.owner, [[guest, 'admin']])
    const project = await fixture.shareProject(people.owner, joined)
    const inviting = await fixture.createTeam(people.owner)
    const { secret } = await fixture.invite(people.owner, inviting, guest.email)
    expect(await allowedActions(guest, project)).toEqual(byRole.admin)
    expect(outcomeOf(await close(guest))).toBe('204')
    expect((await fixture.membersByRole(joined)).admin).toEqual([])
    expect(JSON.stringify(await fixture.storedTeam(inviting))).not.toContain(guest.email)
    const rows = await fixture.services.database.admin`
      select from project_access where user_id = ${guest.id} and project_id = ${project}`
    expect(rows).toHaveLength(0)
    const successor = await fixture.person({ email: guest.email })
    expect(outcomeOf(await fixture.accept(successor, secret))).toBe('404 team.invitation_not_found')
  })

  test('while it accepts an invitation, is in no team afterwards', async () => {
    for (let round = 0; round < 15; round += 1) {
      const guest = await fixture.person()
      const id = await fixture.createTeam(people.owner)
      const { secret } = await fixture.invite(people.owner, id, guest.email)
      const [accepted, ended] = await Promise.all([fixture.accept(guest, secret), close(guest)])
      expect([
        '200',
        '404 team.invitation_not_found',
        '410 team.invitation_gone',
        '401 identity.not_signed_in',
      ]).toContain(outcomeOf(accepted))
      expect(outcomeOf(ended)).toBe('204')
      expect((await fixture.membersByRole(id)).viewer).toEqual([])
    }
  })

  test('while it is removed, changed and made an owner, fails none of these calls, and stays only if it was made the owner', async () => {
    for (let round = 0; round < 15; round += 1) {
      const guest = await fixture.person()
      const teams = [
        await fixture.createTeam(people.owner, [[guest, 'viewer']]),
        await fixture.createTeam(people.owner, [[guest, 'viewer']]),
        await fixture.createTeam(people.owner, [[guest, 'viewer']]),
      ] as const
      for (const id of teams) await fixture.shareProject(people.owner, id)
      const [ended, ...others] = await Promise.all([
        close(guest),
        setRole(people.owner, teams[0], guest, 'editor'),
        fixture.client.delete(`${path}/${teams[1]}/members/${guest.id}`, as(people.owner)),
        fixture.client.post(`${path}/${teams[2]}/transfer`, { user_id: guest.id }, as(people.owner)),
      ])
      expect(['204', '409 identity.owns_teams']).toContain(outcomeOf(ended))
      for (const answer of others)
        expect(['200', '204', '404 team.member_not_found', '409 team.new_owner_inactive']).toContain(outcomeOf(answer))
      for (const id of teams) {
        const { owner, ...rest } = await fixture.membersByRole(id)
        expect(owner).toHaveLength(1)
        if (outcomeOf(ended) === '204') expect([...owner, ...Object.values(rest).flat()]).not.toContain(guest.id)
        else if (id === teams[2]) expect(owner).toEqual([guest.id])
      }
    }
  })
})
