import { describe, expect, test } from 'bun:test'
import { type Group, refusal } from './driver.ts'

const path = '/api/v1/models'

export const models: Group = (world) =>
  describe('models', () => {
    const list = async (query = '') => (await world().get(path + query)).body

    test('are public, each with its parameters and price', async () => {
      const { items, next_cursor } = await list('?limit=100')
      expect(next_cursor).toBeNull()
      const byId = new Map<string, Record<string, unknown>>(items.map((model: { id: string }) => [model.id, model]))
      expect(byId.size).toBe(items.length)
      expect(byId.get('local/procedural')).toEqual({
        id: 'local/procedural',
        provider: 'local',
        kind: 'image',
        available: true,
        credits: 1,
        max_outputs: 4,
        example: { outputs: 4, price: 4 },
        parameters: {
          width: { type: 'integer', minimum: 64, maximum: 2_048, default: 512, description: expect.any(String) },
          height: { type: 'integer', minimum: 64, maximum: 2_048, default: 512, description: expect.any(String) },
          seed: { type: 'integer', minimum: 0, maximum: 4_294_967_295, description: expect.any(String) },
          format: { type: 'string', values: ['webp', 'png'], default: 'webp', description: expect.any(String) },
        },
        negative_prompt: true,
        reference_image: true,
        reference_required: false,
      })
      for (const { credits, example } of items) expect(example.price).toBe(credits * example.outputs)
      expect(new Set(items.map(({ kind }: { kind: string }) => kind))).toEqual(new Set(['image', 'video']))
    })

    test('are found by their id, with its slashes plain, encoded or mixed', async () => {
      const { items } = await list('?limit=100')
      for (const model of items) {
        const { id } = model as { id: string }
        const [first, ...rest] = id.split('/')
        for (const spelling of [id, encodeURIComponent(id), `${first}%2f${rest.join('/')}`, `${id}/`]) {
          const { status, body } = await world().get(`${path}/${spelling}`)
          expect([spelling, status, body]).toEqual([spelling, 200, model])
        }
      }
    })

    test('give 404 for an unknown id and 422 for a malformed one', async () => {
      for (const id of [
        'nope',
        'local',
        'local/procedural/x',
        'local//procedural',
        'LOCAL/procedural',
        'constructor',
      ]) {
        expect([id, refusal(await world().get(`${path}/${id}`))]).toEqual([id, '404 model.not_found'])
      }
      for (const id of [
        '%2Flocal',
        '-/a',
        'a/%ZZ',
        'a/%',
        'a/b%20c',
        'a/b%00',
        'a/é',
        `a/${'b'.repeat(200)}`,
        'a/%C0%80',
      ]) {
        const answer = await world().get(`${path}/${id}`)
        if (id.includes('%') && world().isRefusedByProxy(answer)) continue
        expect([id, refusal(answer), answer.body.errors?.[0]]).toEqual([
          id,
          '422 request.invalid',
          { in: 'params', pointer: '/model_id', detail: expect.any(String) },
        ])
      }
      const other = await world().put(`${path}/local/procedural`, {})
      expect([refusal(other), other.headers.get('allow')]).toEqual([
        '405 route.method_not_allowed',
        'GET, HEAD, OPTIONS',
      ])
    })

    test('are listed in pages in a stable order', async () => {
      const { items } = await list('?limit=100')
      const paged: unknown[] = []
      for (let cursor: string | null = ''; cursor !== null; ) {
        const page = await list(`?limit=2${cursor && `&cursor=${cursor}`}`)
        expect(page.items.length).toBeGreaterThan(0)
        paged.push(...page.items)
        cursor = page.next_cursor
      }
      expect(paged).toEqual(items)
    })
  })
