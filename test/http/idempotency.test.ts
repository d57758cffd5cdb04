import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { newId } from '../../src/kit/id.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { holdBalance } from '../faults/support.ts'
import { newPicture } from '../harness/pictures.ts'
import { type Answer, type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const newOrder = { model: 'local/procedural', prompt: 'a lighthouse', parameters: { width: 64, height: 64 } }
const falOrder = { model: 'fal-ai/flux/schnell', prompt: 'a lighthouse' }

let app: TestApp
let client: Api
let ada: Person
let sql: Sql

beforeAll(async () => {
  app = await startApp({ config: { dbConnections: 60, falKey: 'id:secret' } })
  client = api(app.baseUrl)
  sql = connectOnce(app.connection)
})
afterAll(async () => {
  await sql?.end()
  await app?.close()
})

const order = (person: Person, body: object, key: string, by = client) =>
  by.post('/api/v1/generations', body, { token: person.token, headers: { 'idempotency-key': key } })
const create = async (path: string, body: unknown, headers: Record<string, string> = {}): Promise<string> => {
  const answer = await client.post(path, body, { token: ada.token, headers })
  expect(answer.status).toBe(201)
  return answer.body.id
}
const remove = async (path: string) => {
  expect((await client.delete(path, { token: ada.token })).status).toBe(204)
}
const codeOf = ({ status, body }: Answer) => `${status} ${body.code ?? ''}`.trim()
const bytesOf = ({ body }: Answer) => JSON.stringify(body)
const countOf = async (person: Person) => (await sql`select from generations where owner_id = ${person.id}`).length

const upload = async () => create('/api/v1/media', new Uint8Array(await newPicture()), { 'content-type': 'image/png' })
/** Resources that are deleted between the first request and its replay, and the refusal of a request without a replay. */
const deletions: Record<string, () => Promise<{ input: object; deleteIt: () => Promise<void>; refusal: string }>> = {
  'its reference was deleted': async () => {
    const id = await upload()
    const input = { ...newOrder, reference_media_id: id }
    return { input, deleteIt: () => remove(`/api/v1/media/${id}`), refusal: '404 media.not_found' }
  },
  'its parent was deleted': async () => {
    const id = await create('/api/v1/generations', newOrder)
    const input = { ...newOrder, parent_id: id, intent: 'fork' }
    return { input, deleteIt: () => remove(`/api/v1/generations/${id}`), refusal: '404 generation.not_found' }
  },
  'its project was deleted': async () => {
    const id = await create('/api/v1/projects', { name: 'a project' })
    const input = { ...newOrder, project_id: id }
    return { input, deleteIt: () => remove(`/api/v1/projects/${id}`), refusal: '404 project.not_found' }
  },
}

describe('the response to an order with an idempotency key', () => {
  for (const [change, start] of Object.entries(deletions)) {
    test(`is replayed byte for byte after ${change}, only for the same user, key and body`, async () => {
      ada = await register(client)
      const ben = await register(client)
      const { input, deleteIt, refusal } = await start()
      const key = newId()
      const first = await order(ada, input, key)
      expect([codeOf(first), first.headers.get('idempotent-replayed')]).toEqual(['201', null])
      await deleteIt()
      const count = await countOf(ada)
      const again = await order(ada, input, key)
      expect([again.status, again.headers.get('idempotent-replayed')]).toEqual([201, 'true'])
      expect(bytesOf(again)).toBe(bytesOf(first))
      const refused = [
        await order(ada, { ...input, prompt: 'another' }, key),
        await order(ada, newOrder, key),
        await order(ada, input, newId()),
        await order(ben, input, key),
        await client.post('/api/v1/generations', input, { token: ada.token }),
      ]
      const reused = '422 request.idempotency_key_reused'
      expect(refused.map(codeOf)).toEqual([reused, reused, refusal, refusal, refusal])
      expect([await countOf(ada), await countOf(ben)]).toEqual([count, 0])
      // The key of a refused request is free.
      expect(codeOf(await order(ben, newOrder, key))).toBe('201')
    })
  }

  test('is replayed after its model is no longer offered', async () => {
    ada = await register(client)
    const key = newId()
    const first = await order(ada, falOrder, key)
    expect(codeOf(first)).toBe('201')
    const without = await startApp({ connection: app.connection })
    try {
      const by = api(without.baseUrl)
      const again = await order(ada, falOrder, key, by)
      expect([again.status, again.headers.get('idempotent-replayed')]).toEqual([201, 'true'])
      expect(bytesOf(again)).toBe(bytesOf(first))
      expect(codeOf(await order(ada, falOrder, newId(), by))).toBe('409 model.unavailable')
    } finally {
      await without.close()
    }
  })

  test('is awaited by a replay that arrives before it, and replayed after a revocation that waited for it', async () => {
    ada = await register(client)
    const owner = await register(client)
    const { body: project } = await client.post(
      '/api/v1/projects',
      { name: 'a project', visibility: 'team-only' },
      { token: owner.token },
    )
    const team = await client.post('/api/v1/teams', { name: 'a team' }, { token: owner.token })
    await sql`insert into team_members (team_id, user_id, role) values (${team.body.id}, ${ada.id}, 'editor')`
    const grants = `/api/v1/projects/${project.id}/teams`
    const granted = { team_id: team.body.id, access_level: 'write' }
    expect((await client.post(grants, granted, { token: owner.token })).status).toBe(201)
    const input = { ...newOrder, project_id: project.id }
    const key = newId()
    const balance = await holdBalance(app.connection, ada.id)
    const first = order(ada, input, key)
    await balance.waiting(1)
    const second = order(ada, input, key)
    await balance.waiting(2)
    const revoked = client.delete(`${grants}/${team.body.id}`, { token: owner.token })
    await balance.waiting(3)
    await balance.release()
    const answers = [await first, await second]
    expect((await revoked).status).toBe(204)
    expect(codeOf(await order(ada, input, newId()))).toBe('404 project.not_found')
    answers.push(await order(ada, input, key))
    expect(answers.map(codeOf)).toEqual(['201', '201', '201'])
    expect(new Set(answers.map(bytesOf)).size).toBe(1)
    expect(await countOf(ada)).toBe(1)
  })
})
