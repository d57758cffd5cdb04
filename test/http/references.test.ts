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
const asked = { model: 'local/procedural', prompt: 'a lighthouse', parameters: { width: 64, height: 64, seed: 7 } }

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
  // One that accepts and works on nothing, and one that works once it is started.
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
/** Each of another colour, so that each is an object of its own. */
const upload = async ({ token }: Person = ada, background = nextShade()) => {
  const bytes = await sharp({ create: { width: 1_600, height: 800, channels: 3, background } })
    .withExif({ IFD0: { Copyright: 'somebody' } })
    .jpeg()
    .toBuffer()
  const sending = { token, headers: { 'content-type': 'image/jpeg' } }
  const { status, body } = await client.post('/api/v1/media', new Uint8Array(bytes), sending)
  expect(status).toBe(201)
  const [row] = await sql<{ sha256: string }[]>`select sha256 from media where id = ${body.id}`
  return { id: body.id as string, sha256: row?.sha256 ?? '' }
}
const order = (input: object, { token }: Person = ada) => client.post(generations, { ...asked, ...input }, { token })
const get = async (id: string, { token }: Person = ada) => (await client.get(`${generations}/${id}`, { token })).body
const reached = (id: string, status: string) =>
  until(async () => (await get(id)).status === status, `${id} is ${status}`)
const mediaOf = async (id: string) =>
  (await client.get(`${generations}/${id}/media`, { token: ada.token })).body.items[0].id as string
const codeOf = ({ status, body }: Answer) => (status < 400 ? status : body.code)
const isThere = async (sha256: string) =>
  (await createDiskObjects({ directory: folder }).head(objectKey(sha256, '1024'))) !== undefined

describe('a reference', () => {
  test('is refused for what takes none, missed where one is needed, and shown where it was taken', async () => {
    const { id } = await upload()
    const missing = await order({ model: 'fal-ai/flux/dev/image-to-image', parameters: {} })
    expect([codeOf(missing), missing.body.errors[0].pointer]).toEqual(['request.invalid', '/reference_media_id'])
    const untaken = await order({ model: 'fal-ai/flux/dev', parameters: {}, reference_media_id: id })
    expect([codeOf(untaken), untaken.body.errors[0].pointer]).toEqual(['request.invalid', '/reference_media_id'])
    const made = await order({ reference_media_id: id })
    expect([made.status, made.body.reference_media_id]).toEqual([201, id])
    expect((await get(made.body.id)).reference_media_id).toBe(id)
    expect((await order({})).body.reference_media_id).toBeNull()
  })

  test('that is not the caller’s to download is not there, and costs nothing', async () => {
    const { id } = await upload()
    const before = (await client.get('/api/v1/credits/balance', { token: bob.token })).body
    expect(codeOf(await order({ reference_media_id: id }, bob))).toBe('media.not_found')
    expect(codeOf(await order({ reference_media_id: '00000000-0000-7000-8000-000000000000' }))).toBe('media.not_found')
    expect((await client.get('/api/v1/credits/balance', { token: bob.token })).body).toEqual(before)
    expect(await sql`select from generations where owner_id = ${bob.id}`).toHaveLength(0)
  })

  test('that is being deleted at this moment is waited for, and then not there', async () => {
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

  test('whose media is deleted before the work begins is made from all the same, and then its bytes go', async () => {
    const { id, sha256 } = await upload()
    const made = (await order({ reference_media_id: id })).body
    expect((await client.delete(`/api/v1/media/${id}`, { token: ada.token })).status).toBe(204)
    await idle.services.mediaStorage.sweep()
    expect([(await get(made.id)).reference_media_id, await isThere(sha256)]).toEqual([null, true])
    await startWorking()
    await reached(made.id, 'completed')
    await until(async () => !(await isThere(sha256)), 'the bytes are gone')
    expect(await sql`select from media_objects where sha256 = ${sha256}`).toHaveLength(0)
  })

  test('that nobody can read fails the job in passing, and it is made when that can be read again', async () => {
    await startWorking()
    const { id, sha256 } = await upload()
    const objects = createDiskObjects({ directory: folder })
    const key = objectKey(sha256, '1024')
    const kept = new Uint8Array(await new Response((await objects.open(key))?.stream).arrayBuffer())
    await objects.delete(key)
    const made = (await order({ reference_media_id: id })).body
    await until(
      async () =>
        (await sql`select from generation_jobs where generation_id = ${made.id} and failures > 0`).length === 1,
      'it failed once',
    )
    await objects.put(key, kept, 'image/webp')
    await reached(made.id, 'completed')
  })

  test('gives a drawn picture its colours, by which it is another, and the same each time', async () => {
    await startWorking()
    const { id } = await upload(ada, '#1840d0')
    const hashes: string[] = []
    for (const input of [{ reference_media_id: id }, { reference_media_id: id }, {}]) {
      const made = (await order(input)).body
      await reached(made.id, 'completed')
      const [row] = await sql<{ sha256: string }[]>`select sha256 from media where generation_id = ${made.id}`
      hashes.push(row?.sha256 ?? '')
    }
    expect(hashes[1]).toBe(hashes[0] as string)
    expect(hashes[2]).not.toBe(hashes[0] as string)
  })

  test('that is somebody else’s needs their leave, as a child of it would', async () => {
    await startWorking()
    const project = (
      await client.post('/api/v1/projects', { name: 'Shown', visibility: 'public' }, { token: ada.token })
    ).body.id
    const made = (await order({ project_id: project })).body
    await reached(made.id, 'completed')
    const reference_media_id = await mediaOf(made.id)
    expect((await order({ reference_media_id }, bob)).status).toBe(201)
    const path = `/api/v1/projects/${project}`
    await client.patch(path, { allow_derivatives: false }, { token: ada.token })
    expect(codeOf(await order({ reference_media_id }, bob))).toBe('generation.derivatives_not_allowed')
    expect((await order({ reference_media_id })).status).toBe(201)
    await client.patch(path, { visibility: 'private' }, { token: ada.token })
    expect(codeOf(await order({ reference_media_id }, bob))).toBe('media.not_found')
  })

  test('is named to whose generation it is, and to nobody else who may read that', async () => {
    const { id } = await upload()
    const input = { name: 'Shown', visibility: 'public' }
    const project_id = (await client.post('/api/v1/projects', input, { token: ada.token })).body.id
    const made = (await order({ project_id, reference_media_id: id })).body
    const path = '/api/v1/generations'
    const named = async ({ token }: Person) => {
      const { body: one } = await client.get(`${path}/${made.id}`, { token })
      const { body: page } = await client.get(`${path}?project_id=${project_id}`, { token })
      const { body: liked } = await client.post(`${path}/${made.id}/favorite`, { favorite: true }, { token })
      return [one, page.items[0], liked].map(({ id, reference_media_id }) => [id, reference_media_id])
    }
    expect(await named(ada)).toEqual(Array(3).fill([made.id, id]))
    expect(await named(bob)).toEqual(Array(3).fill([made.id, null]))
  })

  test('is sent to a remote provider small, and without a word of where it is from', async () => {
    await startWorking()
    const submit = 'POST /fal-ai/flux/dev/image-to-image'
    // Refused: what matters here is what was sent.
    fal.on(submit, json({ detail: 'no' }, 422))
    const { id } = await upload()
    const made = (
      await order({ model: 'fal-ai/flux/dev/image-to-image', parameters: { strength: 0.5 }, reference_media_id: id })
    ).body
    expect(made).toMatchObject({ price: 3, parameters: { strength: 0.5, num_inference_steps: 40 } })
    await reached(made.id, 'failed')
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
