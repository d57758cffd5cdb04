import { beforeAll, describe, expect, test } from 'bun:test'
import { until } from '../../faults/support.ts'
import { openEvents } from '../../harness/events.ts'
import type { Person } from '../../harness.ts'
import { unknownId } from './document.ts'
import { type Group, missingHeaders, refusal } from './driver.ts'

const path = '/api/v1/generations'
const small = { model: 'local/procedural', prompt: 'a harbour', parameters: { width: 64, height: 64 } }
/** Takes longer than any of these tests, unless it is cancelled. */
const large = { ...small, parameters: { width: 2_048, height: 2_048 }, outputs: 4 }

export const stream: Group = (world) =>
  describe('the event stream of a generation', () => {
    let owner: Person
    let stranger: Person
    beforeAll(async () => {
      owner = await world().register()
      stranger = await world().register()
    })
    const order = async (input: object): Promise<string> => {
      const { status, body } = await world().post(path, input, { token: owner.token })
      expect(status).toBe(201)
      return body.id
    }
    const target = (id: string) => `${path}/${id}/stream`
    const open = (id: string, { token }: Person = owner, headers: Record<string, string> = {}) =>
      openEvents(world().subject.baseUrl + target(id), { token, headers })
    const cancel = (id: string) => world().post(`${path}/${id}/cancel`, undefined, { token: owner.token })

    test('ends with the complete generation, and gives 204 to a client that has received it', async () => {
      const id = await order(small)
      const live = await open(id)
      expect([live.status, live.headers.get('content-type')]).toEqual([200, 'text/event-stream'])
      expect(live.headers.get('cache-control')).toBe('no-store')
      // nginx obeys this header and does not pass it on.
      const isKept = world().subject.proxy !== 'nginx'
      expect(live.headers.get('x-accel-buffering')).toBe(isKept ? 'no' : null)
      expect(missingHeaders(live.headers)).toEqual([])
      await until(() => live.ended, 'the stream ends')
      const { body } = await world().get(`${path}/${id}`, { token: owner.token })
      expect(live.events.at(-1)).toEqual({ event: 'done', id: 'completed', data: body })
      const late = await world().get(target(id), { token: owner.token })
      expect([late.status, late.text]).toEqual([200, `event: done\nid: completed\ndata: ${JSON.stringify(body)}\n\n`])
      const again = await world().get(target(id), { token: owner.token, headers: { 'last-event-id': 'completed' } })
      expect([again.status, again.text]).toEqual([204, ''])
      const alien = await world().get(target(id), { token: owner.token, headers: { 'last-event-id': '42' } })
      expect(alien.text).toBe(late.text)
      const head = await world().send('HEAD', target(id), { token: owner.token })
      expect([head.status, head.headers.get('content-type'), head.text]).toEqual([200, 'text/event-stream', ''])
    }, 60_000)

    test('is opened once by a ticket, which who may read the generation can ask for', async () => {
      const id = await order(large)
      const ask = (person: Person) => world().post(`${path}/${id}/stream-tickets`, undefined, { token: person.token })
      const { status, body } = await ask(owner)
      expect(status).toBe(201)
      const { pathname, search } = new URL(body.url)
      expect(pathname).toBe(target(id))
      const live = await openEvents(world().subject.baseUrl + pathname + search)
      await until(() => live.events.length > 0, 'the first event arrives')
      expect(refusal(await world().get(pathname + search))).toBe('403 generation.stream_ticket_refused')
      live.close()
      expect(refusal(await ask(await world().register()))).toBe('404 generation.not_found')
      await cancel(id)
    }, 60_000)

    test('sends its events until the generation is cancelled', async () => {
      const id = await order(large)
      const live = await open(id)
      await until(() => live.events.some(({ event }) => event === 'progress'), 'it makes progress')
      expect(live.text).toMatch(/^retry: \d{4}\n\nevent: status\n/)
      await cancel(id)
      await until(() => live.ended, 'the stream ends')
      expect(live.events.at(-1)).toMatchObject({ event: 'done', id: 'cancelled', data: { id, status: 'cancelled' } })
    }, 60_000)

    test('is open to callers with read, and ends when they lose it', async () => {
      const { body: project } = await world().post(
        '/api/v1/projects',
        { name: 'Shown', visibility: 'public' },
        { token: owner.token },
      )
      const id = await order({ ...large, project_id: project.id })
      expect(refusal(await world().get(target(id)))).toBe('401 identity.not_signed_in')
      expect(refusal(await world().get(target(unknownId), { token: owner.token }))).toBe('404 generation.not_found')
      const shown = await open(id, stranger)
      await until(() => shown.events.length > 0, 'it is shown')
      await world().patch(`/api/v1/projects/${project.id}`, { visibility: 'private' }, { token: owner.token })
      await until(() => shown.ended, 'the stream ends')
      expect(shown.events.some(({ event }) => event === 'done')).toBe(false)
      expect(refusal(await world().get(target(id), { token: stranger.token }))).toBe('404 generation.not_found')
      await cancel(id)
    }, 60_000)

    test('is limited to 16 streams for each session, and a closed one frees its place', async () => {
      const id = await order(large)
      const ada = await world().login(owner)
      const clients = await Promise.all(Array.from({ length: 16 }, () => open(id, ada)))
      expect(clients.map(({ status }) => status)).toEqual(Array(16).fill(200))
      const refused = await world().get(target(id), { token: ada.token })
      expect([refusal(refused), refused.headers.get('retry-after')]).toEqual(['429 generation.too_many_streams', '5'])
      clients[0]?.close()
      await until(async () => {
        const next = await open(id, ada)
        if (next.status === 200) clients.push(next)
        return next.status === 200
      }, 'there is room again')
      await cancel(id)
      await until(() => clients.slice(1).every(({ ended }) => ended), 'all are told that it is over')
    }, 60_000)
  })
