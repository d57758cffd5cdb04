import { afterAll, beforeAll, expect, test } from 'bun:test'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import sharp from 'sharp'
import { until } from '../faults/support.ts'
import { reapFolder } from '../harness/reaper.ts'
import { type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'
import { type FakeServer, json, startFakeServer } from '../providers/fake-server.ts'

const generate = 'POST /v1/images/generations'

let server: FakeServer
let app: TestApp
let client: Api
let ada: Person

beforeAll(async () => {
  const folder = await mkdtemp(join(tmpdir(), 'velro-media-'))
  reapFolder(folder)
  server = await startFakeServer()
  app = await startApp({
    config: {
      mediaDirectory: folder,
      jobConcurrency: 1,
      renderWorkers: 1,
      openaiKey: 'sk-test',
      openaiBaseUrl: `${server.baseUrl}/v1`,
      welcomeCredits: 20,
    },
  })
  client = api(app.baseUrl)
  ada = await register(client)
})
afterAll(async () => {
  await app?.close()
  await server?.close()
})

const order = async () => {
  const input = { model: 'openai/gpt-image-2', prompt: 'a lighthouse' }
  const { status, body } = await client.post('/api/v1/generations', input, { token: ada.token })
  expect([status, body.price]).toEqual([201, 7])
  return body.id as string
}
const get = async (path: string) => (await client.get(`/api/v1${path}`, { token: ada.token })).body
const ended = async (id: string) => {
  await until(async () => ['completed', 'failed'].includes((await get(`/generations/${id}`)).status), 'it has ended')
  return get(`/generations/${id}`)
}

test('the output of a remote provider is stored and charged; a refused order is neither', async () => {
  expect((await get('/models/openai/gpt-image-2')).available).toBeTrue()
  expect((await get('/models/fal-ai/flux/schnell')).available).toBeFalse()

  const png = await sharp({ create: { width: 96, height: 64, channels: 3, background: '#246' } })
    .png()
    .toBuffer()
  server.on(generate, json({ created: 1, data: [{ b64_json: png.toString('base64') }] }))
  const made = await order()
  expect(await ended(made)).toMatchObject({ status: 'completed', failure: null })
  const [picture] = (await get(`/generations/${made}/media`)).items
  expect(picture).toMatchObject({ content_type: 'image/png', width: 96, height: 64 })
  const content = await fetch(`${app.baseUrl}/api/v1/media/${picture.id}/content`, {
    headers: { authorization: `Bearer ${ada.token}` },
  })
  // The same pixels, marked: the provider did not say that a model made them.
  const stored = Buffer.from(await content.arrayBuffer())
  expect((await sharp(stored).raw().toBuffer()).equals(await sharp(png).raw().toBuffer())).toBeTrue()
  for (const variant of ['original', '256', '512', '1024']) {
    const small = await fetch(`${app.baseUrl}/api/v1/media/${picture.id}/content?variant=${variant}`, {
      headers: { authorization: `Bearer ${ada.token}` },
    })
    const { xmpAsString } = await sharp(Buffer.from(await small.arrayBuffer())).metadata()
    expect([variant, xmpAsString]).toEqual([variant, expect.stringContaining('/trainedAlgorithmicMedia')])
  }
  expect((await get('/credits/balance')).balance).toBe(13)

  server.on(generate, json({ error: { message: 'no' } }, 400))
  const refused = await order()
  expect(await ended(refused)).toMatchObject({ status: 'failed', failure: 'refused' })
  expect((await get('/credits/balance')).balance).toBe(13)
}, 30_000)
