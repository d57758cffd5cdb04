import { beforeAll, describe, expect, test } from 'bun:test'
import type { Person } from '../../harness.ts'
import { unknownId } from './document.ts'
import { type Answer, type Group, refusal } from './driver.ts'
import { foundTeam } from './teams.ts'

const root = '/api/v1/authorization'

export const listing: Group = (world) =>
  describe('listing by permission', () => {
    let owner: Person
    let viewer: Person
    let editor: Person
    let stranger: Person
    let shared: string
    let shown: string
    beforeAll(async () => {
      ;[owner, viewer, editor, stranger] = await Promise.all([
        world().register(),
        world().register(),
        world().register(),
        world().register(),
      ])
      const team_id = await foundTeam(world(), owner, [
        [viewer, 'viewer'],
        [editor, 'editor'],
      ])
      const { token } = owner
      const make = async (visibility: string) =>
        (await world().post('/api/v1/projects', { name: 'Listed', visibility }, { token })).body.id
      shared = await make('team-only')
      shown = await make('public')
      await world().post(`/api/v1/projects/${shared}/teams`, { team_id, access_level: 'write' }, { token })
    })
    const accessible = (person: Person, action: string, rest = '') =>
      world().get(`${root}/accessible?type=project&action=${action}${rest}`, { token: person.token })
    const who = (person: Person, id: string, action = 'read', rest = '') =>
      world().get(`${root}/who?type=project&id=${id}&action=${action}${rest}`, { token: person.token })

    test('returns exactly the resources that a check allows', async () => {
      for (const person of [owner, viewer, editor, stranger]) {
        for (const action of ['read', 'create', 'write', 'delete']) {
          const ids: string[] = []
          for (let cursor: string | null = ''; cursor !== null; ) {
            const { status, body }: Answer = await accessible(
              person,
              action,
              `&limit=100${cursor && `&cursor=${cursor}`}`,
            )
            expect(status).toBe(200)
            ids.push(...body.items.map((item: { id: string }) => item.id))
            cursor = body.next_cursor
          }
          expect(ids).toEqual([...new Set(ids)].sort().reverse())
          for (const id of [shared, shown]) {
            const asked = { action, resource: { type: 'project', id } }
            const { body } = await world().post(`${root}/check`, asked, { token: person.token })
            expect([action, id, ids.includes(id)]).toEqual([action, id, body.allowed])
          }
        }
      }
    })

    test('returns the subjects of a resource to a caller with share, and whether it is public', async () => {
      const people = ({ body }: Answer) => body.items.map((item: { user_id: string }) => item.user_id).sort()
      const readers = await who(editor, shared)
      expect(people(readers)).toEqual([owner.id, viewer.id, editor.id].sort())
      expect(readers.body).toMatchObject({ everyone: false, next_cursor: null })
      expect(people(await who(owner, shared, 'write'))).toEqual([owner.id, editor.id].sort())
      const all = await who(owner, shown)
      expect([people(all), all.body.everyone]).toEqual([[owner.id], true])
      expect((await who(owner, shown, 'write')).body.everyone).toBe(false)
      expect((await who(owner, shared, 'read', '&limit=1')).body.items).toHaveLength(1)
    })

    test('of subjects gives 404 without read and 403 without share', async () => {
      expect(refusal(await who(stranger, shared))).toBe('404 project.not_found')
      expect(refusal(await who(owner, unknownId))).toBe('404 project.not_found')
      expect(refusal(await who(viewer, shared))).toBe('403 access.denied')
      expect(refusal(await who(stranger, shown))).toBe('403 access.denied')
    })

    test('lets a user list only their own permissions', async () => {
      const about = { user_id: owner.id, action: 'read', resource: { type: 'project', id: shown } }
      const sending = { token: stranger.token }
      const answers = await Promise.all([
        world().post(`${root}/check`, about, sending),
        world().post(`${root}/check/batch`, { checks: [about] }, sending),
        world().post(`${root}/explain`, about, sending),
        accessible(stranger, 'read', `&user_id=${owner.id}`),
      ])
      expect(new Set(answers.map(refusal))).toEqual(new Set(['403 authorization.not_about_others']))
      const own = await world().post(`${root}/check`, { ...about, user_id: stranger.id }, sending)
      expect([own.status, own.body.allowed]).toEqual([200, true])
      expect((await accessible(owner, 'read', `&user_id=${owner.id}`)).status).toBe(200)
    })
  })
