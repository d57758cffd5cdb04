import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { findAccessDifferences } from '../../src/access/cache/effective-access-store.ts'
import { actions, type TeamRole, teamRoles } from '../../src/access/policy/matrix.ts'
import type { Person } from '../harness.ts'
import { type Cast, openStage, type Stage, told } from '../teams/fixture.ts'

const path = '/api/v1/teams'

let stage: Stage
let cast: Cast

beforeAll(async () => {
  stage = await openStage()
  cast = await stage.cast()
})
afterAll(async () => {
  expect(await findAccessDifferences(stage.services.database.admin)).toEqual([])
  await stage.close()
})

const as = ({ token }: Person) => ({ token })

/** The actions somebody may do on a project, by the decision itself; each is asked, so each is in the cache after. */
const mayDo = async (who: Person, projectId: string): Promise<string[]> => {
  const checks = actions.map((action) => ({ action, resource: { type: 'project', id: projectId } }))
  const { body } = await stage.client.post('/api/v1/authorization/check/batch', { checks }, as(who))
  return actions.filter((_, index) => body.results[index].allowed)
}
const reads = async (who: Person, projectId: string) =>
  (await stage.client.get(`/api/v1/projects/${projectId}`, as(who))).status
const setRole = (by: Person, id: string, whom: Person, role: TeamRole) =>
  stage.client.patch(`${path}/${id}/members/${whom.id}`, { role }, as(by))
const join = async (by: Person, id: string, who: Person, role: TeamRole = 'viewer') => {
  const { secret } = await stage.invite(by, id, who.email, role)
  return stage.accept(who, secret)
}

const everything: string[] = [...actions]
const byRole: Record<TeamRole, string[]> = {
  owner: everything,
  admin: everything,
  editor: ['read', 'download', 'create', 'write', 'share'],
  contributor: ['read', 'download', 'create'],
  viewer: ['read', 'download'],
}

describe('what a team was granted is felt in the very next check', () => {
  test('by one who joins, and by one who is removed', async () => {
    const id = await stage.foundFor(cast)
    const project = await stage.share(cast.stranger, id)
    const guest = await stage.person()
    for (let round = 0; round < 5; round += 1) {
      expect([await mayDo(guest, project), await reads(guest, project)]).toEqual([[], 404])
      expect(told(await join(cast.owner, id, guest, 'editor'))).toBe('200')
      expect([await mayDo(guest, project), await reads(guest, project)]).toEqual([byRole.editor, 200])
      expect(told(await stage.client.delete(`${path}/${id}/members/${guest.id}`, as(cast.admin)))).toBe('204')
    }
    expect([await mayDo(guest, project), await reads(guest, project)]).toEqual([[], 404])
  })

  test('by one who leaves', async () => {
    const id = await stage.foundFor(cast)
    const project = await stage.share(cast.stranger, id)
    expect(await mayDo(cast.viewer, project)).toEqual(byRole.viewer)
    expect(told(await stage.client.post(`${path}/${id}/leave`, undefined, as(cast.viewer)))).toBe('204')
    expect(await mayDo(cast.viewer, project)).toEqual([])
  })

  test('by one whose role changes: it may do what the role may', async () => {
    const id = await stage.foundFor(cast)
    const project = await stage.share(cast.stranger, id)
    for (const role of ['editor', 'viewer', 'admin', 'contributor', 'admin', 'viewer'] as const) {
      expect(told(await setRole(cast.owner, id, cast.other_viewer, role))).toBe('200')
      expect(await mayDo(cast.other_viewer, project)).toEqual(byRole[role])
    }
  })

  test('within the level of the grant', async () => {
    const id = await stage.foundFor(cast)
    const project = await stage.share(cast.stranger, id, 'read')
    for (const role of teamRoles) expect(await mayDo(cast[role], project)).toEqual(['read', 'download'])
  })

  test('by both sides of a transfer', async () => {
    const id = await stage.foundFor(cast)
    const project = await stage.share(cast.stranger, id)
    expect(await mayDo(cast.viewer, project)).toEqual(byRole.viewer)
    await stage.client.post(`${path}/${id}/transfer`, { user_id: cast.viewer.id }, as(cast.owner))
    expect(await mayDo(cast.viewer, project)).toEqual(byRole.owner)
    expect(await mayDo(cast.owner, project)).toEqual(byRole.admin)
    expect(told(await setRole(cast.viewer, id, cast.owner, 'viewer'))).toBe('200')
    expect(await mayDo(cast.owner, project)).toEqual(byRole.viewer)
  })

  test('by all when the team is deleted; what they have through another team they keep', async () => {
    const id = await stage.foundFor(cast)
    const other = await stage.found(cast.owner, [[cast.viewer, 'editor']])
    const project = await stage.share(cast.stranger, id)
    await stage.grant(project, other, 'write', cast.stranger)
    for (const role of teamRoles) expect((await mayDo(cast[role], project)).length).toBeGreaterThan(1)
    expect(told(await stage.client.delete(`${path}/${id}`, as(cast.owner)))).toBe('204')
    expect(await mayDo(cast.viewer, project)).toEqual(byRole.editor)
    expect(await mayDo(cast.owner, project)).toEqual(byRole.editor)
    for (const role of ['admin', 'editor', 'contributor'] as const) expect(await mayDo(cast[role], project)).toEqual([])
    expect(await mayDo(cast.stranger, project)).toEqual(everything)
  })

  test('and not at all while the project is private', async () => {
    const id = await stage.foundFor(cast)
    const project = await stage.share(cast.stranger, id, 'admin', 'private')
    const guest = await stage.person()
    await join(cast.owner, id, guest)
    for (const role of teamRoles) expect(await mayDo(cast[role], project)).toEqual([])
    expect(await mayDo(guest, project)).toEqual([])
  })
})

test('under constant questions no answer is older than the change that was acknowledged before it was asked', async () => {
  const id = await stage.foundFor(cast)
  const project = await stage.share(cast.stranger, id)
  const guest = await stage.person()
  type Span = { from: number; to: number }
  const changes: (Span & { member: boolean })[] = []
  const answers: (Span & { allowed: boolean })[] = []
  let over = false
  const ask = async () => {
    while (!over) {
      const from = performance.now()
      const allowed = await stage.allowed(guest, 'read', project)
      answers.push({ from, to: performance.now(), allowed })
    }
  }
  const change = async (member: boolean, work: () => Promise<{ status: number }>) => {
    const from = performance.now()
    expect((await work()).status).toBeLessThan(300)
    changes.push({ member, from, to: performance.now() })
  }
  const askers = Array.from({ length: 6 }, ask)
  for (let round = 0; round < 60; round += 1) {
    const { secret } = await stage.invite(cast.owner, id, guest.email)
    await change(true, () => stage.accept(guest, secret))
    await change(false, () => stage.client.delete(`${path}/${id}/members/${guest.id}`, as(cast.owner)))
  }
  over = true
  await Promise.all(askers)
  /** What may be answered to a question: what held when it was asked, and what changes under way meanwhile made of it. */
  const stale = answers.filter(({ from, to, allowed }) => {
    const settled = changes.findLast((done) => done.to <= from)?.member ?? false
    const meanwhile = changes.filter((made) => made.from <= to && made.to > from).map(({ member }) => member)
    return ![settled, ...meanwhile].includes(allowed)
  })
  expect(stale).toEqual([])
  expect(answers.length).toBeGreaterThan(500)
  expect(answers.filter(({ allowed }) => allowed).length).toBeGreaterThan(50)
  expect(answers.filter(({ allowed }) => !allowed).length).toBeGreaterThan(50)
})

describe('an account that is closed', () => {
  const close = (who: Person) => stage.client.delete('/api/v1/auth/me', as(who))

  test('leaves the teams it does not own, keeps those it does, and takes its address out of every invitation', async () => {
    const guest = await stage.person()
    const joined = await stage.found(cast.owner, [[guest, 'admin']])
    const owned = await stage.found(guest, [[cast.viewer, 'viewer']])
    const project = await stage.share(cast.owner, joined)
    const inviting = await stage.found(cast.owner)
    const { secret } = await stage.invite(cast.owner, inviting, guest.email)
    expect(await mayDo(guest, project)).toEqual(byRole.admin)
    expect(told(await close(guest))).toBe('204')
    expect((await stage.members(joined)).admin).toEqual([])
    expect((await stage.members(owned)).owner).toEqual([guest.id])
    expect(JSON.stringify(await stage.stored(inviting))).not.toContain(guest.email)
    const rows = await stage.services.database.admin`
      select from project_access where user_id = ${guest.id} and project_id = ${project}`
    expect(rows).toHaveLength(0)
    const successor = await stage.person({ email: guest.email })
    expect(told(await stage.accept(successor, secret))).toBe('404 team.invitation_not_found')
  })

  test('while it accepts an invitation: it is in no team afterwards', async () => {
    for (let round = 0; round < 15; round += 1) {
      const guest = await stage.person()
      const id = await stage.found(cast.owner)
      const { secret } = await stage.invite(cast.owner, id, guest.email)
      const [accepted, ended] = await Promise.all([stage.accept(guest, secret), close(guest)])
      expect(['200', '404 team.invitation_not_found', '401 identity.not_signed_in']).toContain(told(accepted))
      expect(told(ended)).toBe('204')
      expect((await stage.members(id)).viewer).toEqual([])
    }
  })

  test('while it is removed, changed and made an owner: everybody is answered', async () => {
    for (let round = 0; round < 15; round += 1) {
      const guest = await stage.person()
      const teams = [
        await stage.found(cast.owner, [[guest, 'viewer']]),
        await stage.found(cast.owner, [[guest, 'viewer']]),
        await stage.found(cast.owner, [[guest, 'viewer']]),
      ] as const
      for (const id of teams) await stage.share(cast.owner, id)
      const [ended, ...others] = await Promise.all([
        close(guest),
        setRole(cast.owner, teams[0], guest, 'editor'),
        stage.client.delete(`${path}/${teams[1]}/members/${guest.id}`, as(cast.owner)),
        stage.client.post(`${path}/${teams[2]}/transfer`, { user_id: guest.id }, as(cast.owner)),
      ])
      expect(told(ended)).toBe('204')
      for (const answer of others) expect(['200', '204', '404 team.member_not_found']).toContain(told(answer))
      for (const id of teams) {
        const { owner, ...rest } = await stage.members(id)
        expect(owner).toHaveLength(1)
        expect(Object.values(rest).flat()).not.toContain(guest.id)
      }
    }
  })
})
