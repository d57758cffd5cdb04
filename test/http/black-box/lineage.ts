import { beforeAll, describe, expect, test } from 'bun:test'
import type { Person } from '../../harness.ts'
import { unknownId } from './document.ts'
import { type Group, refusal } from './driver.ts'

const path = '/api/v1/generations'
const maxDepth = 64

export const lineage: Group = (world) =>
  describe('lineage', () => {
    let owner: Person
    let stranger: Person
    beforeAll(async () => {
      owner = await world().register()
      stranger = await world().register()
    })
    const ask = ({ token }: Person, input: object = {}) =>
      world().post(
        path,
        { model: 'local/procedural', prompt: 'p', parameters: { width: 64, height: 64 }, ...input },
        { token },
      )
    const make = async (person: Person, input: object = {}) => {
      const { status, body } = await ask(person, input)
      expect(status).toBe(201)
      return body
    }
    const child = (person: Person, parent_id: string, input: object = {}) =>
      ask(person, { parent_id, intent: 'iterate', ...input })
    const project = async (input: object) =>
      (await world().post('/api/v1/projects', { name: 'Lines', ...input }, { token: owner.token })).body.id
    const provenance = async ({ token }: Person, id: string) => {
      const { body } = await world().get(`${path}/${id}/provenance`, { token })
      return { ids: body.items.map((item: { id: string }) => item.id), hidden: body.hidden }
    }

    test('gives a child its own intent, and lists its ancestors nearest first', async () => {
      const first = await make(owner, { title: 'First' })
      expect(first).toMatchObject({ intent: 'original', depth: 0, title: 'First', favorite: false })
      const second = (await child(owner, first.id)).body
      const third = (await child(owner, second.id, { intent: 'remix' })).body
      expect(third).toMatchObject({ intent: 'remix', depth: 2 })
      expect(await provenance(owner, third.id)).toEqual({ ids: [second.id, first.id], hidden: 0 })
      expect(refusal(await ask(owner, { parent_id: first.id }))).toBe('422 request.invalid')
      expect(refusal(await ask(owner, { intent: 'fork' }))).toBe('422 request.invalid')
    })

    test('hides an ancestor that is not visible: no child, no provenance, only a count', async () => {
      const hidden = await make(owner)
      expect(refusal(await child(stranger, hidden.id))).toBe('404 generation.not_found')
      expect(refusal(await child(stranger, unknownId))).toBe('404 generation.not_found')
      const refused = await world().get(`${path}/${hidden.id}/provenance`, { token: stranger.token })
      expect(refusal(refused)).toBe('404 generation.not_found')
      const shown = (await child(owner, hidden.id, { project_id: await project({ visibility: 'public' }) })).body
      const own = (await child(stranger, shown.id)).body
      expect(await provenance(stranger, own.id)).toEqual({ ids: [shown.id], hidden: 1 })
    })

    test('lets the owner of a parent derive from it in a project without derivatives', async () => {
      const project_id = await project({ visibility: 'public', allow_derivatives: false })
      const { id } = await make(owner, { project_id })
      expect(refusal(await child(stranger, id))).toBe('403 generation.derivatives_not_allowed')
      expect((await child(owner, id)).status).toBe(201)
      await world().patch(`/api/v1/projects/${project_id}`, { allow_derivatives: true }, { token: owner.token })
      expect((await child(stranger, id)).status).toBe(201)
    })

    test(`is limited to ${maxDepth} ancestors`, async () => {
      let { id } = await make(owner)
      for (let depth = 1; depth <= maxDepth; depth += 1) {
        const { body } = await child(owner, id)
        expect(body.depth).toBe(depth)
        id = body.id
      }
      expect(refusal(await child(owner, id))).toBe('422 generation.too_deep')
      expect((await provenance(owner, id)).ids).toHaveLength(maxDepth)
    })

    test('does not change who may retitle or move a generation: 403 for a reader', async () => {
      const [from, to] = [await project({ visibility: 'public' }), await project({ visibility: 'private' })]
      const { id } = await make(owner, { project_id: from })
      const change = ({ token }: Person, input: object, target = id) =>
        world().patch(`${path}/${target}`, input, { token })
      expect((await change(owner, { title: 'Titled' })).body).toMatchObject({ title: 'Titled', project_id: from })
      expect(refusal(await change(stranger, { title: 'Mine' }))).toBe('403 access.denied')
      expect(refusal(await change(stranger, { project_id: null }))).toBe('403 access.denied')
      expect(refusal(await change(owner, { project_id: unknownId }))).toBe('404 project.not_found')
      expect(refusal(await change(owner, { title: 'x' }, unknownId))).toBe('404 generation.not_found')
      expect((await change(owner, { project_id: to })).body.project_id).toBe(to)
      expect(refusal(await change(stranger, { title: 'Mine' }))).toBe('404 generation.not_found')
      expect((await change(owner, { project_id: null })).body).toMatchObject({ title: 'Titled', project_id: null })
    })

    test('keeps favorites per user', async () => {
      const { id } = await make(owner, { project_id: await project({ visibility: 'public' }) })
      const mark = ({ token }: Person, favorite: boolean, target = id) =>
        world().post(`${path}/${target}/favorite`, { favorite }, { token })
      for (let times = 0; times < 2; times += 1) expect((await mark(stranger, true)).body.favorite).toBe(true)
      expect((await world().get(`${path}/${id}`, { token: owner.token })).body.favorite).toBe(false)
      const listed = async ({ token }: Person) =>
        (await world().get(`${path}?favorite=true`, { token })).body.items.map((item: { id: string }) => item.id)
      expect([await listed(stranger), await listed(owner)]).toEqual([[id], []])
      expect((await mark(stranger, false)).body.favorite).toBe(false)
      expect(refusal(await mark(stranger, true, unknownId))).toBe('404 generation.not_found')
    })

    test('narrows lists by intent, like the other filters', async () => {
      const person = await world().register()
      const original = await make(person)
      const iterated = (await child(person, original.id)).body
      const ids = async (query: string) =>
        (await world().get(`${path}?owner_id=${person.id}&${query}`, { token: person.token })).body.items.map(
          (item: { id: string }) => item.id,
        )
      expect(await ids('model=local/procedural')).toEqual([iterated.id, original.id])
      expect(await ids('model=fal-ai/flux/dev')).toEqual([])
      expect(await ids('intent=iterate')).toEqual([iterated.id])
      expect(await ids('intent=remix')).toEqual([])
      for (const { id } of [original, iterated]) {
        await world().post(`${path}/${id}/cancel`, undefined, { token: person.token })
      }
      const listed = [...(await ids('status=cancelled')), ...(await ids('status=completed'))]
      expect(listed.toSorted()).toEqual([original.id, iterated.id].toSorted())
    })
  })
