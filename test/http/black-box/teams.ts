import { beforeAll, describe, expect, test } from 'bun:test'
import type { Person } from '../../harness.ts'
import { unknownId } from './document.ts'
import { type Answer, type Group, refusal, type World } from './driver.ts'

const path = '/api/v1/teams'
type GivenRole = 'admin' | 'editor' | 'contributor' | 'viewer'

/** A team built through the public API: created, then joined by invitation. */
export const foundTeam = async (
  world: World,
  owner: Person,
  members: readonly (readonly [Person, GivenRole])[] = [],
) => {
  const { status, body } = await world.post(path, { name: 'A team' }, { token: owner.token })
  expect(status).toBe(201)
  for (const [person, role] of members) {
    const asked = { email: person.email, role }
    const invited = await world.post(`${path}/${body.id}/invitations`, asked, { token: owner.token })
    expect(invited.status).toBe(201)
    const { secret } = invited.body
    const joined = await world.post(`${path}/invitations/accept`, { secret }, { token: person.token })
    expect([joined.status, joined.body.id, joined.body.role]).toEqual([200, body.id, role])
  }
  return body.id as string
}

export const teams: Group = (world) =>
  describe('teams', () => {
    let owner: Person
    let admin: Person
    let viewer: Person
    let stranger: Person
    let team: string
    beforeAll(async () => {
      ;[owner, admin, viewer, stranger] = await Promise.all([
        world().register(),
        world().register(),
        world().register(),
        world().register(),
      ])
      team = await foundTeam(world(), owner, [
        [admin, 'admin'],
        [viewer, 'viewer'],
      ])
    })
    const get = ({ token }: Person, rest = '', id = team) => world().get(`${path}/${id}${rest}`, { token })
    const post = ({ token }: Person, rest: string, body?: object, id = team) =>
      world().post(`${path}/${id}${rest}`, body, { token })
    const patch = ({ token }: Person, rest: string, body: object, id = team) =>
      world().patch(`${path}/${id}${rest}`, body, { token })
    const remove = ({ token }: Person, rest = '', id = team) => world().delete(`${path}/${id}${rest}`, { token })
    const invite = async (person: Person, email: string, role: GivenRole = 'viewer', id = team) => {
      const { status, body } = await post(person, '/invitations', { email, role }, id)
      expect(status).toBe(201)
      return body
    }
    const accept = ({ token }: Person, secret: string) =>
      world().post(`${path}/invitations/accept`, { secret }, { token })
    const decline = ({ token }: Person, secret: string) =>
      world().post(`${path}/invitations/decline`, { secret }, { token })

    test('are created with room for 50, and shown to each member with its role', async () => {
      const { body } = await get(owner)
      expect(body).toMatchObject({
        name: 'A team',
        description: '',
        max_members: 50,
        owner_id: owner.id,
        role: 'owner',
      })
      expect((await get(viewer)).body).toEqual({ ...body, role: 'viewer' })
      for (const person of [owner, admin, viewer]) {
        const { items } = (await world().get(path, { token: person.token })).body
        expect(items.map(({ id }: { id: string }) => id)).toEqual([team])
      }
      expect((await world().get(path, { token: stranger.token })).body).toEqual({ items: [], next_cursor: null })
    })

    test('are 404 to a stranger on every route', async () => {
      const asks = (id: string): Promise<Answer>[] => [
        get(stranger, '', id),
        get(stranger, '/members', id),
        get(stranger, '/statistics', id),
        get(stranger, '/invitations', id),
        patch(stranger, '', { name: 'Mine' }, id),
        patch(stranger, `/members/${viewer.id}`, { role: 'admin' }, id),
        remove(stranger, '', id),
        remove(stranger, `/members/${viewer.id}`, id),
        remove(stranger, `/invitations/${viewer.id}`, id),
        post(stranger, '/leave', undefined, id),
        post(stranger, '/transfer', { user_id: stranger.id }, id),
        post(stranger, '/invitations', { email: stranger.email, role: 'admin' }, id),
      ]
      const plain = (answers: Answer[], id: string) =>
        answers.map(({ text, body }) => text.replaceAll(id, '').replace(body.request_id, ''))
      const [real, imagined] = [await Promise.all(asks(team)), await Promise.all(asks(unknownId))]
      expect(new Set(real.map(refusal))).toEqual(new Set(['404 team.not_found']))
      expect(plain(real, team)).toEqual(plain(imagined, unknownId))
    })

    test('answer 403 to a role that is too low, and change nothing', async () => {
      const asks = [
        patch(viewer, '', { name: 'Mine' }),
        patch(viewer, `/members/${viewer.id}`, { role: 'admin' }),
        patch(admin, `/members/${viewer.id}`, { role: 'admin' }),
        patch(admin, `/members/${owner.id}`, { role: 'viewer' }),
        remove(admin),
        remove(admin, `/members/${owner.id}`),
        get(viewer, '/invitations'),
        remove(viewer, `/invitations/${unknownId}`),
        post(admin, '/transfer', { user_id: admin.id }),
        post(viewer, '/invitations', { email: stranger.email, role: 'viewer' }),
        post(admin, '/invitations', { email: stranger.email, role: 'admin' }),
      ]
      expect(new Set((await Promise.all(asks)).map(refusal))).toEqual(new Set(['403 team.role_too_low']))
      const { items } = (await get(viewer, '/members')).body
      const roles = Object.fromEntries(
        items.map(({ user_id, role }: { user_id: string; role: string }) => [user_id, role]),
      )
      expect(roles).toEqual({ [owner.id]: 'owner', [admin.id]: 'admin', [viewer.id]: 'viewer' })
    })

    test('are changed by an admin, and never limited below the number of members', async () => {
      const named = await patch(admin, '', { name: 'Renamed', description: 'Ours' })
      expect([named.status, named.body.name, named.body.description]).toEqual([200, 'Renamed', 'Ours'])
      expect(refusal(await patch(admin, '', { max_members: 2 }))).toBe('409 team.max_members_too_low')
      expect((await patch(owner, '', { max_members: 3 })).body.max_members).toBe(3)
      const { secret } = await invite(admin, stranger.email)
      expect(refusal(await accept(stranger, secret))).toBe('409 team.full')
      await patch(owner, '', { max_members: 50 })
      expect((await decline(stranger, secret)).status).toBe(204)
    })

    test('an invitation is valid once, for its recipient, and while it is open', async () => {
      const guest = await world().register()
      const made = await invite(admin, guest.email.toUpperCase(), 'editor')
      expect(made).toMatchObject({ email: guest.email, role: 'editor', status: 'pending', invited_by: admin.id })
      const { secret, ...shown } = made
      expect((await get(owner, '/invitations?status=pending')).body.items).toEqual([shown])
      for (const [person, text] of [
        [stranger, secret],
        [guest, 'A'.repeat(43)],
      ] as const) {
        for (const present of [accept, decline]) {
          expect(refusal(await present(person, text))).toBe('404 team.invitation_not_found')
        }
      }
      expect((await accept(guest, secret)).body).toMatchObject({ id: team, role: 'editor' })
      for (const present of [accept, decline])
        expect(refusal(await present(guest, secret))).toBe('410 team.invitation_gone')
      const again = await post(owner, '/invitations', { email: guest.email, role: 'viewer' })
      expect(refusal(again)).toBe('409 team.already_member')
      expect((await remove(admin, `/members/${guest.id}`)).status).toBe(204)
      expect(refusal(await remove(admin, `/members/${guest.id}`))).toBe('404 team.member_not_found')
      expect(refusal(await get(guest))).toBe('404 team.not_found')
    })

    test('an invitation that was cancelled or superseded is not valid', async () => {
      const guest = await world().register()
      const [first, second] = [await invite(owner, guest.email), await invite(owner, guest.email, 'admin')]
      expect(refusal(await accept(guest, first.secret))).toBe('410 team.invitation_gone')
      expect(refusal(await remove(admin, `/invitations/${second.id}`))).toBe('403 team.role_too_low')
      expect((await remove(owner, `/invitations/${second.id}`)).status).toBe(204)
      expect(refusal(await remove(owner, `/invitations/${second.id}`))).toBe('404 team.invitation_not_found')
      expect(refusal(await accept(guest, second.secret))).toBe('410 team.invitation_gone')
    })

    test('a member changes roles below its own, and a member who leaves loses access at once', async () => {
      const guest = await world().register()
      await accept(guest, (await invite(owner, guest.email)).secret)
      const raised = await patch(admin, `/members/${guest.id}`, { role: 'editor' })
      expect([raised.status, raised.body.role]).toEqual([200, 'editor'])
      expect((await get(guest)).body.role).toBe('editor')
      expect(refusal(await patch(admin, `/members/${unknownId}`, { role: 'editor' }))).toBe('404 team.member_not_found')
      expect(refusal(await post(owner, '/leave'))).toBe('409 team.owner_cannot_leave')
      expect((await post(guest, '/leave')).status).toBe(204)
      expect(refusal(await get(guest))).toBe('404 team.not_found')
      expect(refusal(await post(guest, '/leave'))).toBe('404 team.not_found')
    })

    test('are transferred, and the previous owner becomes an admin', async () => {
      const id = await foundTeam(world(), owner, [[admin, 'viewer']])
      expect(refusal(await post(owner, '/transfer', { user_id: stranger.id }, id))).toBe('404 team.member_not_found')
      const { status, body } = await post(owner, '/transfer', { user_id: admin.id }, id)
      expect([status, body.owner_id, body.role]).toEqual([200, admin.id, 'admin'])
      expect((await get(admin, '', id)).body.role).toBe('owner')
      expect(refusal(await remove(owner, '', id))).toBe('403 team.role_too_low')
      expect((await remove(admin, '', id)).status).toBe(204)
      for (const person of [owner, admin]) expect(refusal(await get(person, '', id))).toBe('404 team.not_found')
    })

    test('must be handed over before their owner closes the account, and are not handed to a suspended member', async () => {
      const [leaving, member, operator] = [await world().register(), await world().register(), await world().operator()]
      const id = await foundTeam(world(), leaving, [[member, 'editor']])
      const close = () => world().delete('/api/v1/auth/me', { token: leaving.token })
      const refused = await close()
      expect([refusal(refused), refused.body.teams]).toEqual(['409 identity.owns_teams', [{ id, name: 'A team' }]])
      if (operator !== undefined) {
        const change = (status: string) =>
          world().patch(`/api/v1/users/${member.id}`, { status }, { token: operator.token })
        expect((await change('suspended')).status).toBe(200)
        const transfer = await post(leaving, '/transfer', { user_id: member.id }, id)
        expect(refusal(transfer)).toBe('409 team.new_owner_inactive')
        expect((await change('active')).status).toBe(200)
      }
      expect((await post(leaving, '/transfer', { user_id: member.id }, id)).status).toBe(200)
      expect((await close()).status).toBe(204)
    })

    test('have consistent statistics', async () => {
      const { body } = await get(viewer, '/statistics')
      expect(body.members).toEqual({
        total: 3,
        by_role: { owner: 1, admin: 1, editor: 0, contributor: 0, viewer: 1 },
      })
      expect(body).toMatchObject({ projects: { total: 0 }, generations: 0, pending_invitations: 0 })
    })

    test('are listed completely over pages', async () => {
      const members = (await get(owner, '/members')).body.items
      const walked: unknown[] = []
      for (let cursor: string | null = ''; cursor !== null; ) {
        const { body }: Answer = await get(owner, `/members?limit=1${cursor && `&cursor=${cursor}`}`)
        walked.push(...body.items)
        cursor = body.next_cursor
      }
      expect(walked).toEqual(members)
      expect(members).toHaveLength(3)
    })
  })
