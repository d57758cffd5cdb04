import { beforeAll, describe, expect, test } from 'bun:test'
import { randomUUID } from 'node:crypto'
import { newPicture } from '../../harness/pictures.ts'
import type { Person } from '../../harness.ts'
import { unknownId } from './document.ts'
import type { Group } from './driver.ts'
import { headOf, type WireAnswer } from './wire.ts'

type Thing = { type: 'project' | 'generation' | 'media'; id: string }

const pathOf = ({ type, id }: Thing) => `/api/v1/${type === 'media' ? type : `${type}s`}/${id}`

const without = (text: string, ids: readonly string[]) => ids.reduce((rest, id) => rest.replaceAll(id, '<id>'), text)

/** The whole answer without the parts that always differ: the requested id, the request id and the time. */
const strip = (answer: WireAnswer | undefined, ids: readonly string[]) => {
  if (answer === undefined) throw new Error('There was no answer')
  const requestId = answer.headers.find(([name]) => name === 'x-request-id')?.[1] ?? ''
  // The duration in an explanation varies in its number of digits.
  const varying = ['date', 'x-request-id', ...(answer.body.includes('"microseconds"') ? ['content-length'] : [])]
  return {
    status: answer.status,
    headers: answer.headers.filter(([name]) => !varying.includes(name)),
    body: without(answer.body, [requestId, ...ids]).replaceAll(/"microseconds":[\d.e-]+/g, '"microseconds":0'),
  }
}

/**
 * To a stranger, a resource that is not visible and an unknown id give the same answer, byte for byte, on every route
 * that takes the resource's id.
 */
export const hiding: Group = (world) =>
  describe('a hidden resource', () => {
    let owner: Person
    let stranger: Person
    let project: Thing
    let hidden: Record<string, Thing>
    beforeAll(async () => {
      owner = await world().register()
      stranger = await world().register()
      const make = async (path: string, input: object) =>
        (await world().post(path, input, { token: owner.token })).body.id
      const generation = { model: 'local/procedural', prompt: 'p', parameters: { width: 64, height: 64 } }
      project = { type: 'project', id: await make('/api/v1/projects', { name: 'Hidden' }) }
      const teamOnly = await make('/api/v1/projects', { name: 'Hidden', visibility: 'team-only' })
      hidden = {
        'a private project': project,
        'a team-only project': { type: 'project', id: teamOnly },
        'a generation in a private project': {
          type: 'generation',
          id: await make('/api/v1/generations', { ...generation, project_id: project.id }),
        },
        'a generation outside projects': { type: 'generation', id: await make('/api/v1/generations', generation) },
        'a picture that another user uploaded': { type: 'media', id: await upload() },
        'a picture that was made': { type: 'media', id: await outputOf(await make('/api/v1/generations', generation)) },
      }
    }, 60_000)
    const upload = async () => {
      const body = (await newPicture()) as Uint8Array<ArrayBuffer>
      const headers = { 'content-type': 'image/png' }
      return (await world().send('POST', '/api/v1/media', { token: owner.token, headers, body })).body.id
    }
    const outputOf = async (generationId: string): Promise<string> => {
      for (const giveUpAt = performance.now() + 30_000; performance.now() < giveUpAt; await Bun.sleep(20)) {
        const { body } = await world().get(`/api/v1/generations/${generationId}/media`, { token: owner.token })
        if (body.items.length > 0) return body.items[0].id
      }
      throw new Error('It was not made in time')
    }

    const ask = (method: string, target: string, body?: object) => {
      const text = body === undefined ? '' : JSON.stringify(body)
      const head = headOf(method, target, {
        authorization: `Bearer ${stranger.token}`,
        ...(body !== undefined && { 'content-type': 'application/json', 'content-length': String(text.length) }),
      })
      return world().raw(method, target, [head + text])
    }

    const routes: Record<string, (thing: Thing) => Promise<WireAnswer | undefined>> = {
      get: (thing) => ask('GET', pathOf(thing)),
      head: (thing) => ask('HEAD', pathOf(thing)),
      delete: (thing) => ask('DELETE', pathOf(thing)),
      check: (resource) => ask('POST', '/api/v1/authorization/check', { action: 'read', resource }),
      'check of delete': (resource) => ask('POST', '/api/v1/authorization/check', { action: 'delete', resource }),
      'check in a batch': (resource) =>
        ask('POST', '/api/v1/authorization/check/batch', { checks: [{ action: 'read', resource }] }),
      'second explain': async (resource) => {
        await ask('POST', '/api/v1/authorization/explain', { action: 'read', resource })
        return ask('POST', '/api/v1/authorization/explain', { action: 'read', resource })
      },
    }
    const projectRoutes: typeof routes = {
      patch: ({ id }) => ask('PATCH', `/api/v1/projects/${id}`, { name: 'Mine' }),
      'patch of its visibility': ({ id }) => ask('PATCH', `/api/v1/projects/${id}`, { visibility: 'public' }),
      'a generation in it': ({ id }) =>
        ask('POST', '/api/v1/generations', { project_id: id, model: 'local/procedural', prompt: 'p' }),
      'the list of its generations': ({ id }) => ask('GET', `/api/v1/generations?project_id=${id}`),
    }

    const generationRoutes: typeof routes = {
      stream: ({ id }) => ask('GET', `/api/v1/generations/${id}/stream`),
      'head of its stream': ({ id }) => ask('HEAD', `/api/v1/generations/${id}/stream`),
    }

    const mediaRoutes: typeof routes = {
      content: (thing) => ask('GET', `${pathOf(thing)}/content`),
      'head of its content': (thing) => ask('HEAD', `${pathOf(thing)}/content`),
      'content by a forged link': (thing) => ask('GET', `${pathOf(thing)}/content?signature=${'A'.repeat(103)}`),
      'content by a forged share link': (thing) => ask('GET', `${pathOf(thing)}/content?share=${'A'.repeat(64)}`),
      'a link': (thing) => ask('POST', `${pathOf(thing)}/links`, {}),
      'a share link': (thing) => ask('POST', `${pathOf(thing)}/share-links`, {}),
      'its share links': (thing) => ask('GET', `${pathOf(thing)}/share-links`),
      'removal of a share link': (thing) => ask('DELETE', `${pathOf(thing)}/share-links/${unknownId}`),
      'a generation that refers to it': ({ id }) =>
        ask('POST', '/api/v1/generations', { model: 'local/procedural', prompt: 'p', reference_media_id: id }),
    }

    for (const [name, own] of Object.entries({
      'a private project': projectRoutes,
      'a team-only project': projectRoutes,
      'a generation in a private project': generationRoutes,
      'a generation outside projects': generationRoutes,
      'a picture that another user uploaded': mediaRoutes,
      'a picture that was made': mediaRoutes,
    })) {
      const applicable = { ...routes, ...own }
      for (const [route, send] of Object.entries(applicable)) {
        test(`${name} is to a stranger like an unknown one: ${route}`, async () => {
          const real = hidden[name] as Thing
          const imagined = { ...real, id: randomUUID() }
          // Twice: neither the cold nor the warm answer may distinguish the two.
          for (let round = 0; round < 2; round += 1) {
            const [seen, unseen] = [await send(real), await send(imagined)]
            expect(strip(seen, [real.id])).toEqual(strip(unseen, [imagined.id]))
            expect(seen?.body.includes(owner.id)).toBe(false)
          }
        })
      }
    }

    test('the first explain of a hidden resource equals that of an unknown one', async () => {
      const explain = (resource: Thing) => ask('POST', '/api/v1/authorization/explain', { action: 'read', resource })
      const { body } = await world().post('/api/v1/projects', { name: 'New' }, { token: owner.token })
      const [real, imagined] = [body.id, randomUUID()]
      const [seen, unseen] = [
        await explain({ type: 'project', id: real }),
        await explain({ type: 'project', id: imagined }),
      ]
      expect(strip(seen, [real])).toEqual(strip(unseen, [imagined]))
    })

    test('is visible to its owner throughout', async () => {
      for (const thing of Object.values(hidden)) {
        expect((await world().get(pathOf(thing), { token: owner.token })).status).toBe(200)
      }
      expect((await world().get(`/api/v1/projects/${project.id}`, { token: owner.token })).body.name).toBe('Hidden')
    })
  })
