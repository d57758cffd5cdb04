import { beforeAll, describe, expect, test } from 'bun:test'
import type { Person } from '../../harness.ts'
import { unknownId } from './document.ts'
import { type Group, refusal } from './driver.ts'
import { foundTeam } from './teams.ts'

const everything = ['read', 'download', 'create', 'write', 'share', 'delete', 'admin']
const levels = {
  read: everything.slice(0, 2),
  write: everything.slice(0, 5),
  admin: everything,
} as const
const roles = {
  owner: everything,
  admin: everything,
  editor: everything.slice(0, 5),
  contributor: everything.slice(0, 3),
  viewer: everything.slice(0, 2),
} as const
type Role = keyof typeof roles

export const grants: Group = (world) =>
  describe('projects and teams', () => {
    let members: Record<Role, Person>
    let owner: Person
    let stranger: Person
    let team: string
    beforeAll(async () => {
      const people = await Promise.all(Array.from({ length: 7 }, () => world().register()))
      const [lead, admin, editor, contributor, viewer, maker, other] = people as [
        Person,
        Person,
        Person,
        Person,
        Person,
        Person,
        Person,
      ]
      members = { owner: lead, admin, editor, contributor, viewer }
      owner = maker
      stranger = other
      team = await foundTeam(world(), lead, [
        [maker, 'admin'],
        [admin, 'admin'],
        [editor, 'editor'],
        [contributor, 'contributor'],
        [viewer, 'viewer'],
      ])
    })
    const project = async (visibility = 'team-only', { token }: Person = owner) => {
      const { status, body } = await world().post('/api/v1/projects', { name: 'Shared', visibility }, { token })
      expect(status).toBe(201)
      return `/api/v1/projects/${body.id}`
    }
    const grant = ({ token }: Person, path: string, team_id = team, access_level = 'write') =>
      world().post(`${path}/teams`, { team_id, access_level }, { token })
    const permissions = async ({ token }: Person, path: string): Promise<string[]> =>
      (await world().get(path, { token })).body.permissions ?? []

    test('a member has the actions that both its role and the access level of the grant allow', async () => {
      const path = await project()
      const given = await grant(owner, path, team, 'read')
      expect(given.status).toBe(201)
      expect(given.body).toMatchObject({ team_id: team, access_level: 'read', granted_by: owner.id })
      for (const [level, allows] of Object.entries(levels)) {
        const changed = await world().patch(`${path}/teams/${team}`, { access_level: level }, { token: owner.token })
        expect([changed.status, changed.body.access_level]).toEqual([200, level])
        for (const [role, may] of Object.entries(roles)) {
          const expected = may.filter((action) => allows.includes(action))
          expect([level, role, await permissions(members[role as Role], path)]).toEqual([level, role, expected])
        }
      }
      expect(await permissions(stranger, path)).toEqual([])
    })

    test('a private project suspends its grants and does not delete them', async () => {
      const path = await project()
      await grant(owner, path)
      const show = (visibility: string) => world().patch(path, { visibility }, { token: owner.token })
      await show('private')
      expect(refusal(await world().get(path, { token: members.viewer.token }))).toBe('404 project.not_found')
      await show('team-only')
      expect(await permissions(members.viewer, path)).toEqual(['read', 'download'])
    })

    test('a grant needs admin on the project and in the team, and exists once', async () => {
      const path = await project()
      expect(refusal(await grant(stranger, path))).toBe('404 project.not_found')
      expect(refusal(await grant(owner, path, unknownId))).toBe('404 team.not_found')
      const foreign = await foundTeam(world(), stranger)
      expect(refusal(await grant(owner, path, foreign))).toBe('404 team.not_found')
      const seen = await foundTeam(world(), stranger, [[owner, 'editor']])
      expect(refusal(await grant(owner, path, seen))).toBe('403 team.role_too_low')
      expect((await grant(owner, path)).status).toBe(201)
      expect(refusal(await grant(owner, path))).toBe('409 project.grant_exists')
      expect(refusal(await grant(members.editor, path))).toBe('403 access.denied')
    })

    test('grants are listed, changed and withdrawn with the right to, and hidden without read', async () => {
      const path = await project()
      await grant(owner, path)
      const { token } = members.editor
      const { body } = await world().get(`${path}/teams`, { token })
      expect(body.items).toEqual([
        expect.objectContaining({ team_id: team, team_name: 'A team', access_level: 'write' }),
      ])
      const stats = await world().get(`${path}/stats`, { token })
      expect(stats.body).toMatchObject({ generations: { total: 0 }, grants: { total: 1 }, people: 6 })
      const one = `${path}/teams/${team}`
      const asks = (person: Person) => {
        const sending = { token: person.token }
        return Promise.all([
          world().get(`${path}/teams`, sending),
          world().get(`${path}/stats`, sending),
          world().patch(one, { access_level: 'admin' }, sending),
          world().delete(one, sending),
        ])
      }
      expect(new Set((await asks(stranger)).map(refusal))).toEqual(new Set(['404 project.not_found']))
      expect(new Set((await asks(members.viewer)).map(refusal))).toEqual(new Set(['403 access.denied']))
      expect((await world().delete(one, { token: owner.token })).status).toBe(204)
      for (const again of [
        world().delete(one, { token: owner.token }),
        world().patch(one, { access_level: 'read' }, { token: owner.token }),
      ]) {
        expect(refusal(await again)).toBe('404 project.grant_not_found')
      }
      expect(refusal(await world().get(path, { token }))).toBe('404 project.not_found')
    })

    test('only the owner transfers a project, to a user who has access through a team', async () => {
      const path = await project()
      await grant(owner, path, team, 'admin')
      const transfer = ({ token }: Person, owner_id: string) =>
        world().post(`${path}/transfer`, { owner_id }, { token })
      expect(refusal(await transfer(stranger, stranger.id))).toBe('404 project.not_found')
      expect(refusal(await transfer(members.viewer, members.viewer.id))).toBe('403 access.denied')
      expect(refusal(await transfer(members.admin, members.admin.id))).toBe('403 access.denied')
      for (const unfit of [stranger.id, unknownId]) {
        expect(refusal(await transfer(owner, unfit))).toBe('422 project.new_owner_unfit')
      }
      const { status, body } = await transfer(owner, members.viewer.id)
      expect([status, body.owner_id]).toEqual([200, members.viewer.id])
      expect(await permissions(members.viewer, path)).toEqual(everything)
    })

    test('a user who leaves the team, or whose team is deleted, loses the project at once', async () => {
      const guest = await world().register()
      const id = await foundTeam(world(), owner, [[guest, 'viewer']])
      const path = await project()
      await grant(owner, path, id)
      expect(await permissions(guest, path)).toEqual(['read', 'download'])
      await world().post(`/api/v1/teams/${id}/leave`, undefined, { token: guest.token })
      expect(await permissions(guest, path)).toEqual([])
      await world().delete(`/api/v1/teams/${id}`, { token: owner.token })
      expect((await world().get(`${path}/teams`, { token: owner.token })).body.items).toEqual([])
    })
  })
