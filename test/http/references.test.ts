import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import sharp from 'sharp'
import { createDiskObjects } from '../../src/platform/disk-objects.ts'
import { objectKey } from '../../src/platform/objects.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { reapFolder } from '../harness/reaper.ts'
import { type Answer, type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'
import { type FakeServer, json, startFakeServer } from '../providers/fake-server.ts'

const generations = '/api/v1/generations'
const defaults = { model: 'local/procedural', prompt: 'a lighthouse', parameters: { width: 64, height: 64, seed: 7 } }

let idle: TestApp
let working: TestApp
let fal: FakeServer
let client: Api
let sql: Sql
let folder: string
let ada: Person
let bob: Person

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'velro-media-'))
  reapFolder(folder)
  fal = await startFakeServer()
  const shared = { mediaDirectory: folder, dbConnections: 40, falKey: 'id:key', falQueueUrl: fal.baseUrl }
  // `idle` accepts orders and runs no jobs; `working` runs them once it is started.
  idle = await startApp({ config: shared })
  sql = connectOnce(idle.connection)
  client = api(idle.baseUrl)
  ada = await register(client)
  bob = await register(client)
})
afterAll(async () => {
  await working?.close()
  await sql?.end()
  await idle?.close()
  await fal?.close()
})
const startWorking = async () => {
  const config = { mediaDirectory: folder, jobConcurrency: 1, renderWorkers: 1 }
  working ??= await startApp({
    connection: idle.connection,
    config: { ...config, falKey: 'id:key', falQueueUrl: fal.baseUrl },
  })
}

let shade = 0
const nextShade = () => {
  shade += 3
  return `rgb(200, ${shade}, 30)`
}
/** Each upload has another colour, so that each is a separate object. */
const upload = async ({ token }: Person = ada, background = nextShade()) => {
  const bytes = await sharp({ create: { width: 1_600, height: 800, channels: 3, background } })
    .withExif({ IFD0: { Copyright: 'Ada' } })
    .jpeg()
    .toBuffer()
  const sending = { token, headers: { 'content-type': 'image/jpeg' } }
  const { status, body } = await client.post('/api/v1/media', new Uint8Array(bytes), sending)
  expect(status).toBe(201)
  const [row] = await sql<{ sha256: string }[]>`select sha256 from media where id = ${body.id}`
  return { id: body.id as string, sha256: row?.sha256 ?? '' }
}
const order = (input: object, { token }: Person = ada) => client.post(generations, { ...defaults, ...input }, { token })
const get = async (id: string, { token }: Person = ada) => (await client.get(`${generations}/${id}`, { token })).body
const waitForStatus = (id: string, status: string) =>
  until(async () => (await get(id)).status === status, `${id} is ${status}`)
const mediaOf = async (id: string) =>
  (await client.get(`${generations}/${id}/media`, { token: ada.token })).body.items[0].id as string
const codeOf = ({ status, body }: Answer) => (status < 400 ? status : body.code)
const isStored = async (sha256: string) =>
  (await createDiskObjects({ directory: folder }).head(objectKey(sha256, '1024'))) !== undefined

describe('a reference picture', () => {
  test('is refused by a model without references, required by a model that needs one, and shown once accepted', async () => {
    const { id } = await upload()
    const missing = await order({ model: 'fal-ai/flux/dev/image-to-image', parameters: {} })
    expect([codeOf(missing), missing.body.errors[0].pointer]).toEqual(['request.invalid', '/reference_media_id'])
    const unaccepted = await order({ model: 'fal-ai/flux/dev', parameters: {}, reference_media_id: id })
    expect([codeOf(unaccepted), unaccepted.body.errors[0].pointer]).toEqual(['request.invalid', '/reference_media_id'])
    const created = await order({ reference_media_id: id })
    expect([created.status, created.body.reference_media_id]).toEqual([201, id])
    expect((await get(created.body.id)).reference_media_id).toBe(id)
    expect((await order({})).body.reference_media_id).toBeNull()
  })

  test('that the caller may not download is reported as not found, and nothing is charged', async () => {
    const { id } = await upload()
    const before = (await client.get('/api/v1/credits/balance', { token: bob.token })).body
    expect(codeOf(await order({ reference_media_id: id }, bob))).toBe('media.not_found')
    expect(codeOf(await order({ reference_media_id: '00000000-0000-7000-8000-000000000000' }))).toBe('media.not_found')
    expect((await client.get('/api/v1/credits/balance', { token: bob.token })).body).toEqual(before)
    expect(await sql`select from generations where owner_id = ${bob.id}`).toHaveLength(0)
  })

  test('that is being deleted makes the order wait for that transaction, and is then not found', async () => {
    const { id } = await upload()
    const deleted = Promise.withResolvers<void>()
    const commit = Promise.withResolvers<void>()
    const deleting = sql.begin(async (tx) => {
      await tx`delete from media where id = ${id}`
      deleted.resolve()
      await commit.promise
    })
    await deleted.promise
    const ordering = order({ reference_media_id: id })
    const watcher = connectOnce(idle.connection)
    await until(async () => {
      const waiting = await watcher`
        select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`
      return waiting.length > 0
    }, 'the order waits')
    await watcher.end()
    commit.resolve()
    await deleting
    expect(codeOf(await ordering)).toBe('media.not_found')
  })

  test('deleted before the job starts is still used by the job, and its bytes are deleted afterwards', async () => {
    const { id, sha256 } = await upload()
    const created = (await order({ reference_media_id: id })).body
    expect((await client.delete(`/api/v1/media/${id}`, { token: ada.token })).status).toBe(204)
    await idle.services.mediaStorage.sweep()
    expect([(await get(created.id)).reference_media_id, await isStored(sha256)]).toEqual([null, true])
    await startWorking()
    await waitForStatus(created.id, 'completed')
    await until(async () => !(await isStored(sha256)), 'the bytes are deleted')
    expect(await sql`select from media_objects where sha256 = ${sha256}`).toHaveLength(0)
  })

  test('that cannot be read fails an attempt, and a later attempt succeeds once it can', async () => {
    await startWorking()
    const { id, sha256 } = await upload()
    const objects = createDiskObjects({ directory: folder })
    const key = objectKey(sha256, '1024')
    const original = new Uint8Array(await new Response((await objects.open(key))?.body).arrayBuffer())
    await objects.delete(key)
    const created = (await order({ reference_media_id: id })).body
    await until(
      async () =>
        (await sql`select from generation_jobs where generation_id = ${created.id} and failures > 0`).length === 1,
      'an attempt has failed',
    )
    await objects.put(key, original, 'image/webp')
    await waitForStatus(created.id, 'completed')
  })

  test('changes the output of the local provider, deterministically', async () => {
    await startWorking()
    const { id } = await upload(ada, '#1840d0')
    const hashes: string[] = []
    for (const input of [{ reference_media_id: id }, { reference_media_id: id }, {}]) {
      const created = (await order(input)).body
      await waitForStatus(created.id, 'completed')
      const [row] = await sql<{ sha256: string }[]>`select sha256 from media where generation_id = ${created.id}`
      hashes.push(row?.sha256 ?? '')
    }
    expect(hashes[1]).toBe(hashes[0] as string)
    expect(hashes[2]).not.toBe(hashes[0] as string)
  })

  test('of another user needs a project that allows derivatives, like a child of it', async () => {
    await startWorking()
    const project = (
      await client.post('/api/v1/projects', { name: 'Shown', visibility: 'public' }, { token: ada.token })
    ).body.id
    const created = (await order({ project_id: project })).body
    await waitForStatus(created.id, 'completed')
    const reference_media_id = await mediaOf(created.id)
    expect((await order({ reference_media_id }, bob)).status).toBe(201)
    const path = `/api/v1/projects/${project}`
    await client.patch(path, { allow_derivatives: false }, { token: ada.token })
    expect(codeOf(await order({ reference_media_id }, bob))).toBe('generation.derivatives_not_allowed')
    expect((await order({ reference_media_id })).status).toBe(201)
    await client.patch(path, { visibility: 'private' }, { token: ada.token })
    expect(codeOf(await order({ reference_media_id }, bob))).toBe('media.not_found')
  })

  test('is shown to the owner of the generation and not to other readers', async () => {
    const { id } = await upload()
    const input = { name: 'Shown', visibility: 'public' }
    const project_id = (await client.post('/api/v1/projects', input, { token: ada.token })).body.id
    const created = (await order({ project_id, reference_media_id: id })).body
    const path = '/api/v1/generations'
    const shownTo = async ({ token }: Person) => {
      const { body: one } = await client.get(`${path}/${created.id}`, { token })
      const { body: page } = await client.get(`${path}?project_id=${project_id}`, { token })
      const { body: liked } = await client.post(`${path}/${created.id}/favorite`, { favorite: true }, { token })
      return [one, page.items[0], liked].map(({ id, reference_media_id }) => [id, reference_media_id])
    }
    expect(await shownTo(ada)).toEqual(Array(3).fill([created.id, id]))
    expect(await shownTo(bob)).toEqual(Array(3).fill([created.id, null]))
  })

  test('is sent to a remote provider scaled down and without metadata', async () => {
    await startWorking()
    const submit = 'POST /fal-ai/flux/dev/image-to-image'
    // Refused: this test inspects only the request.
    fal.on(submit, json({ detail: 'no' }, 422))
    const { id } = await upload()
    const created = (
      await order({ model: 'fal-ai/flux/dev/image-to-image', parameters: { strength: 0.5 }, reference_media_id: id })
    ).body
    expect(created).toMatchObject({ price: 3, parameters: { strength: 0.5, num_inference_steps: 40 } })
    await waitForStatus(created.id, 'failed')
    const sent = fal.received.find(({ url }) => url === submit.slice(5))?.body as {
      image_url: string
      strength: number
    }
    expect(sent.strength).toBe(0.5)
    const [type, base64 = ''] = sent.image_url.split(',')
    expect(type).toBe('data:image/webp;base64')
    const metadata = await sharp(Buffer.from(base64, 'base64')).metadata()
    expect(metadata).toMatchObject({ format: 'webp', width: 1_024, height: 512 })
    expect([metadata.exif, metadata.xmp]).toEqual([undefined, undefined])
  })
})
