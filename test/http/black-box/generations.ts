import { beforeAll, describe, expect, test } from 'bun:test'
import type { Person } from '../../harness.ts'
import { unknownId } from './document.ts'
import { type Group, refusal } from './driver.ts'

const path = '/api/v1/generations'

export const generations: Group = (world) =>
  describe('generations', () => {
    let owner: Person
    let stranger: Person
    beforeAll(async () => {
      owner = await world().register()
      stranger = await world().register()
    })
    const project = async (visibility: string, { token }: Person = owner): Promise<string> =>
      (await world().post('/api/v1/projects', { name: 'For generations', visibility }, { token })).body.id
    const ask = (input: object, { token }: Person = owner) =>
      world().post(
        path,
        { model: 'local/procedural', prompt: 'A lion at dawn', parameters: { width: 64, height: 64 }, ...input },
        { token },
      )
    const create = async (input: object = {}, person: Person = owner) => {
      const { status, body } = await ask(input, person)
      expect(status).toBe(201)
      return body
    }
    const list = async (query: string, { token }: Person): Promise<string[]> =>
      (await world().get(`${path}?limit=100${query}`, { token })).body.items.map(({ id }: { id: string }) => id)

    test('are accepted with all their parameters, inside and outside a project', async () => {
      const outside = await create({ prompt: 'Löwe \u{1f981}', outputs: 2 })
      expect(outside).toMatchObject({
        owner_id: owner.id,
        project_id: null,
        model: 'local/procedural',
        prompt: 'Löwe \u{1f981}',
        negative_prompt: '',
        parameters: { width: 64, height: 64, format: 'webp', seed: expect.any(Number) },
        outputs: 2,
        price: 2,
        status: 'queued',
        progress: 0,
        failure: null,
        started_at: null,
        finished_at: null,
      })
      const { body } = await world().get(`${path}/${outside.id}`, { token: owner.token })
      const { status, progress, started_at, finished_at, updated_at } = body
      expect(body).toEqual({ ...outside, status, progress, started_at, finished_at, updated_at })
      const project_id = await project('private')
      expect(await create({ project_id })).toMatchObject({ project_id })
    })

    test('need create on their project: 404 for a project that is not visible, 403 for a visible one', async () => {
      const [hidden, shown] = [await project('private'), await project('public')]
      expect(refusal(await ask({ project_id: hidden }, stranger))).toBe('404 project.not_found')
      expect(refusal(await ask({ project_id: unknownId }, stranger))).toBe('404 project.not_found')
      expect(refusal(await ask({ project_id: shown }, stranger))).toBe('403 access.denied')
    })

    test('follow the visibility of their project at once, and outside a project are visible to their owner only', async () => {
      const project_id = await project('private')
      const [inside, outside] = [await create({ project_id }), await create()]
      const show = (visibility: string) =>
        world().patch(`/api/v1/projects/${project_id}`, { visibility }, { token: owner.token })
      const see = async () => [
        (await world().get(`${path}/${inside.id}`, { token: stranger.token })).status,
        refusal(await world().delete(`${path}/${inside.id}`, { token: stranger.token })),
        await list(`&project_id=${project_id}`, stranger),
        refusal(await world().get(`${path}/${outside.id}`, { token: stranger.token })),
      ]
      const hidden = [404, '404 generation.not_found', [], '404 generation.not_found']
      expect(await see()).toEqual(hidden)
      await show('public')
      expect(await see()).toEqual([200, '403 access.denied', [inside.id], '404 generation.not_found'])
      await show('private')
      expect(await see()).toEqual(hidden)
    })

    test('are not found at once after they are deleted', async () => {
      const { id } = await create({ project_id: await project('public') })
      expect((await world().get(`${path}/${id}`, { token: stranger.token })).status).toBe(200)
      const removed = await world().send('DELETE', `${path}/${id}`, { token: owner.token })
      expect([removed.status, removed.text]).toEqual([204, ''])
      for (const { token } of [owner, stranger]) {
        expect(refusal(await world().get(`${path}/${id}`, { token }))).toBe('404 generation.not_found')
      }
    })

    test('outlive their project, visible to their owner only', async () => {
      const project_id = await project('public')
      const made = await create({ project_id })
      expect((await world().get(`${path}/${made.id}`, { token: stranger.token })).status).toBe(200)
      await world().delete(`/api/v1/projects/${project_id}`, { token: owner.token })
      const { body } = await world().get(`${path}/${made.id}`, { token: owner.token })
      expect(body).toMatchObject({ id: made.id, owner_id: owner.id, project_id: null, prompt: made.prompt })
      expect(refusal(await world().get(`${path}/${made.id}`, { token: stranger.token }))).toBe(
        '404 generation.not_found',
      )
    })

    test('are listed newest first if the caller may read them, completely over all pages', async () => {
      const [ann, ben] = await Promise.all([world().register(), world().register()])
      const [mine, theirs] = [await project('private', ann), await project('public', ben)]
      const own = [
        await create({ project_id: mine }, ann),
        await create({}, ann),
        await create({ project_id: mine }, ann),
      ]
      const shown = await create({ project_id: theirs }, ben)
      await create({}, ben)
      expect(await list(`&project_id=${mine}`, ann)).toEqual([own[2].id, own[0].id])
      expect(await list(`&project_id=${theirs}`, ann)).toEqual([shown.id])
      expect(await list(`&project_id=${mine}`, ben)).toEqual([])
      const all = await list('', ann)
      expect(all).toEqual(expect.arrayContaining([...own.map(({ id }) => id), shown.id]))
      const paged: string[] = []
      for (let cursor: string | null = ''; cursor !== null; ) {
        const query: string = `?limit=1${cursor && `&cursor=${cursor}`}&project_id=${mine}`
        const { body } = await world().get(path + query, { token: ann.token })
        expect(body.items).toHaveLength(1)
        paged.push(body.items[0].id)
        cursor = body.next_cursor
      }
      expect(paged).toEqual([own[2].id, own[0].id])
    })
  })
