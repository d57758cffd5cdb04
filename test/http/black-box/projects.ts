import { beforeAll, describe, expect, test } from 'bun:test'
import type { Person } from '../../harness.ts'
import { unknownId } from './document.ts'
import { type Group, refusal } from './driver.ts'

const path = '/api/v1/projects'

export const projects: Group = (world) =>
  describe('projects', () => {
    let owner: Person
    let stranger: Person
    beforeAll(async () => {
      owner = await world().register()
      stranger = await world().register()
    })
    const create = async (input: object = {}, { token }: Person = owner) => {
      const { status, body } = await world().post(path, { name: 'A project', ...input }, { token })
      expect(status).toBe(201)
      return body
    }
    const walk = async (query: string, limit: number, { token }: Person): Promise<string[]> => {
      const ids: string[] = []
      for (let cursor: string | null = ''; cursor !== null; ) {
        const { status, body } = await world().get(
          `${path}?limit=${limit}${query}${cursor && `&cursor=${encodeURIComponent(cursor)}`}`,
          { token },
        )
        expect(status).toBe(200)
        ids.push(...body.items.map(({ id }: { id: string }) => id))
        cursor = body.next_cursor
      }
      return ids
    }

    test('are private and without a description by default', async () => {
      const made = await create({ name: ' Löwe \u{1f981}' })
      expect(made).toMatchObject({
        owner_id: owner.id,
        name: ' Löwe \u{1f981}',
        description: '',
        visibility: 'private',
        allow_derivatives: true,
      })
      expect(made.id[14]).toBe('7')
      const permissions = ['read', 'download', 'create', 'write', 'share', 'delete', 'admin']
      const { body } = await world().get(`${path}/${made.id}`, { token: owner.token })
      expect(body).toEqual({ ...made, permissions })
      const given = { description: 'Text', visibility: 'team-only', allow_derivatives: false }
      expect(await create(given)).toMatchObject(given)
    })

    test('keep the fields that a change omits', async () => {
      const made = await create({ description: 'first' })
      const change = (input: object) => world().patch(`${path}/${made.id}`, input, { token: owner.token })
      const named = await change({ name: 'Second' })
      expect(named.status).toBe(200)
      expect(named.body).toEqual({ ...made, name: 'Second', updated_at: named.body.updated_at })
      const shown = await change({ visibility: 'public', description: '' })
      expect(shown.body).toMatchObject({ name: 'Second', visibility: 'public', description: '' })
      expect(Date.parse(shown.body.updated_at)).toBeGreaterThanOrEqual(Date.parse(made.updated_at))
      expect(refusal(await change({}))).toBe('422 request.invalid')
    })

    test('are gone for everyone at once when deleted', async () => {
      const { id } = await create({ visibility: 'public' })
      expect((await world().get(`${path}/${id}`, { token: stranger.token })).status).toBe(200)
      const removed = await world().send('DELETE', `${path}/${id}`, { token: owner.token })
      expect([removed.status, removed.text]).toEqual([204, ''])
      for (const { token } of [owner, stranger]) {
        expect(refusal(await world().get(`${path}/${id}`, { token }))).toBe('404 project.not_found')
      }
      expect(refusal(await world().delete(`${path}/${id}`, { token: owner.token }))).toBe('404 project.not_found')
    })

    test('are readable by strangers while public, with 403 for the rest, and 404 at once when private again', async () => {
      const { id } = await create()
      const show = (visibility: string) => world().patch(`${path}/${id}`, { visibility }, { token: owner.token })
      const ask = async () => [
        refusal(await world().patch(`${path}/${id}`, { name: 'Mine' }, { token: stranger.token })),
        refusal(await world().patch(`${path}/${id}`, { visibility: 'private' }, { token: stranger.token })),
        refusal(await world().delete(`${path}/${id}`, { token: stranger.token })),
        (await world().get(`${path}/${id}`, { token: stranger.token })).status,
      ]
      const hidden = [...Array(3).fill('404 project.not_found'), 404]
      expect(await ask()).toEqual(hidden)
      await show('public')
      expect(await ask()).toEqual([...Array(3).fill('403 access.denied'), 200])
      await show('team-only')
      expect(await ask()).toEqual(hidden)
      await show('public')
      await show('private')
      expect(await ask()).toEqual(hidden)
    })

    test('the list has what the caller may read, newest first, complete over its pages', async () => {
      const [ann, ben] = await Promise.all([world().register(), world().register()])
      const own = [await create({}, ann), await create({ visibility: 'team-only' }, ann), await create({}, ann)]
      const shown = await create({ visibility: 'public' }, ben)
      await create({}, ben)
      const mine = own.map(({ id }) => id).reverse()
      for (const limit of [1, 2, 3, 100]) {
        expect(await walk(`&owner_id=${ann.id}`, limit, ann)).toEqual(mine)
      }
      expect(await walk(`&owner_id=${ben.id}`, 1, ann)).toEqual([shown.id])
      expect(await walk(`&owner_id=${ann.id}`, 1, ben)).toEqual([])
      expect(await walk(`&owner_id=${unknownId}`, 1, ann)).toEqual([])
      const all = await walk('', 100, ann)
      expect(all).toEqual(expect.arrayContaining([...mine, shown.id]))
      expect(all).toEqual([...all].sort().reverse())
    })

    test('are listed 20 per page by default', async () => {
      const person = await world().register()
      await Promise.all(Array.from({ length: 21 }, () => create({}, person)))
      const { body } = await world().get(`${path}?owner_id=${person.id}`, { token: person.token })
      expect(body.items).toHaveLength(20)
      const rest = await world().get(`${path}?owner_id=${person.id}&cursor=${body.next_cursor}`, {
        token: person.token,
      })
      expect(rest.body.items).toHaveLength(1)
      expect(rest.body.next_cursor).toBeNull()
    })
  })
