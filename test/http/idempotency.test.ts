import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { newId } from '../../src/kit/id.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { holdBalance } from '../faults/support.ts'
import { newPicture } from '../harness/pictures.ts'
import { type Answer, type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const asked = { model: 'local/procedural', prompt: 'a lighthouse', parameters: { width: 64, height: 64 } }
const offeredByFal = { model: 'fal-ai/flux/schnell', prompt: 'a lighthouse' }

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
const made = async (path: string, body: unknown, headers: Record<string, string> = {}): Promise<string> => {
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

const upload = async () => made('/api/v1/media', new Uint8Array(await newPicture()), { 'content-type': 'image/png' })
/** What may be there for the first request and not for the second; what a request without a key, or a new one, is told. */
const losses: Record<string, () => Promise<{ input: object; lose: () => Promise<void>; refusal: string }>> = {
  'its reference is deleted': async () => {
    const id = await upload()
    const input = { ...asked, reference_media_id: id }
    return { input, lose: () => remove(`/api/v1/media/${id}`), refusal: '404 media.not_found' }
  },
  'its parent is deleted': async () => {
    const id = await made('/api/v1/generations', asked)
    const input = { ...asked, parent_id: id, intent: 'fork' }
    return { input, lose: () => remove(`/api/v1/generations/${id}`), refusal: '404 generation.not_found' }
  },
  'its project is deleted': async () => {
    const id = await made('/api/v1/projects', { name: 'a project' })
    const input = { ...asked, project_id: id }
    return { input, lose: () => remove(`/api/v1/projects/${id}`), refusal: '404 project.not_found' }
  },
}

describe('a generation that was asked for with a key', () => {
  for (const [what, start] of Object.entries(losses)) {
    test(`is told again to the byte when ${what}, to nobody else and for no other body`, async () => {
      ada = await register(client)
      const ben = await register(client)
      const { input, lose, refusal } = await start()
      const key = newId()
      const first = await order(ada, input, key)
      expect([codeOf(first), first.headers.get('idempotent-replayed')]).toEqual(['201', null])
      await lose()
      const count = await countOf(ada)
      const again = await order(ada, input, key)
      expect([again.status, again.headers.get('idempotent-replayed')]).toEqual([201, 'true'])
      expect(bytesOf(again)).toBe(bytesOf(first))
      const refused = [
        await order(ada, { ...input, prompt: 'another' }, key),
        await order(ada, asked, key),
        await order(ada, input, newId()),
        await order(ben, input, key),
        await client.post('/api/v1/generations', input, { token: ada.token }),
      ]
      const reused = '422 request.idempotency_key_reused'
      expect(refused.map(codeOf)).toEqual([reused, reused, refusal, refusal, refusal])
      expect([await countOf(ada), await countOf(ben)]).toEqual([count, 0])
      // One that was refused was none.
      expect(codeOf(await order(ben, asked, key))).toBe('201')
    })
  }

  test('is told again when its model is no longer to be had', async () => {
    ada = await register(client)
    const key = newId()
    const first = await order(ada, offeredByFal, key)
    expect(codeOf(first)).toBe('201')
    const without = await startApp({ connection: app.connection })
    try {
      const by = api(without.baseUrl)
      const again = await order(ada, offeredByFal, key, by)
      expect([again.status, again.headers.get('idempotent-replayed')]).toEqual([201, 'true'])
      expect(bytesOf(again)).toBe(bytesOf(first))
      expect(codeOf(await order(ada, offeredByFal, newId(), by))).toBe('409 model.unavailable')
    } finally {
      await without.close()
    }
  })

  test('and is not answered yet is waited for by whoever would be refused', async () => {
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
    const input = { ...asked, project_id: project.id }
    const key = newId()
    const balance = await holdBalance(app.connection, ada.id)
    const first = order(ada, input, key)
    await balance.waiting(1)
    expect((await client.delete(`${grants}/${team.body.id}`, { token: owner.token })).status).toBe(204)
    expect(codeOf(await order(ada, input, newId()))).toBe('404 project.not_found')
    const second = order(ada, input, key)
    await balance.waiting(2)
    await balance.release()
    const answers = [await first, await second]
    expect(answers.map(codeOf)).toEqual(['201', '201'])
    expect(new Set(answers.map(bytesOf)).size).toBe(1)
    expect(await countOf(ada)).toBe(1)
  })
})
