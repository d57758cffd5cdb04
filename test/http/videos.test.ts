import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtemp } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import sharp from 'sharp'
import { createDiskObjects } from '../../src/platform/disk-objects.ts'
import { objectKey } from '../../src/platform/objects.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { createSafeFetch } from '../../src/platform/safe-fetch.ts'
import { until } from '../faults/support.ts'
import { readFilm, stretch } from '../harness/film.ts'
import { markedFilm, takenFile } from '../harness/photos.ts'
import { reapFolder } from '../harness/reaper.ts'
import {
  type Api,
  api,
  createDatabase,
  type Person,
  register,
  startApp,
  startServer,
  type TestApp,
  type TestDatabase,
  type TestServer,
} from '../harness.ts'
import { connectToFake, type FakeServer, file, json, type Respond, startFakeServer } from '../providers/fake-server.ts'

const model = 'fal-ai/kling-video/v2/master/text-to-video'
const mebibyte = 1_048_576

const newFolder = async () => {
  const folder = await mkdtemp(join(tmpdir(), 'velro-media-'))
  reapFolder(folder)
  return folder
}
const sha256Of = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

/** Fetches the content of a media id, optionally with a range. */
const fetchContent = async (baseUrl: string, id: string, { token }: Person, headers: Record<string, string> = {}) => {
  const response = await fetch(`${baseUrl}/api/v1/media/${id}/content`, {
    headers: { authorization: `Bearer ${token}`, ...headers },
  })
  return { response, bytes: Buffer.from(await response.arrayBuffer()) }
}

/** Checks the range requests of a browser that plays a video and seeks in it. */
const expectRanges = async (baseUrl: string, id: string, person: Person, video: Buffer) => {
  const total = video.length
  const middle = Math.floor(total / 3)
  for (const [range, first, end] of [
    ['bytes=0-1', 0, 2],
    ['bytes=0-', 0, total],
    [`bytes=${middle}-${2 * middle}`, middle, 2 * middle + 1],
    [`bytes=${total - 10}-${total + 10}`, total - 10, total],
    ['bytes=-500', total - 500, total],
    [`bytes=-${total + 1}`, 0, total],
  ] as const) {
    const { response, bytes } = await fetchContent(baseUrl, id, person, { range })
    const received = [response.status, response.headers.get('content-range'), response.headers.get('content-type')]
    expect([range, ...received]).toEqual([range, 206, `bytes ${first}-${end - 1}/${total}`, 'video/mp4'])
    expect([range, bytes.equals(video.subarray(first, end))]).toEqual([range, true])
  }
  for (const range of [`bytes=${total}-`, 'bytes=-0']) {
    const { response } = await fetchContent(baseUrl, id, person, { range })
    expect([range, response.status, response.headers.get('content-range')]).toEqual([range, 416, `bytes */${total}`])
  }
  const whole = await fetchContent(baseUrl, id, person)
  expect([whole.response.status, whole.response.headers.get('accept-ranges')]).toEqual([200, 'bytes'])
  expect(whole.response.headers.get('etag')).toBe(`"${sha256Of(video)}"`)
  expect(whole.bytes.equals(video)).toBeTrue()
}

describe('an ordered video', () => {
  const request = 'r1'
  const url = 'https://v3.fal.media/files/video.mp4'
  let server: FakeServer
  let app: TestApp
  let client: Api
  let ada: Person
  let video: Buffer

  beforeAll(async () => {
    // It says that a model made it, so it is stored as it is.
    video = markedFilm(await readFilm())
    server = await startFakeServer()
    const { connect: connectToFiles } = connectToFake(server)
    app = await startApp({
      config: {
        mediaDirectory: await newFolder(),
        jobConcurrency: 1,
        renderWorkers: 1,
        falKey: 'key',
        falQueueUrl: server.baseUrl,
        welcomeCredits: 2_000,
      },
      safeFetch: createSafeFetch({ resolve: async () => ['93.184.215.14'], connect: connectToFiles }),
    })
    client = api(app.baseUrl)
    ada = await register(client)
    server.on(`POST /${model}`, json({ status: 'IN_QUEUE', request_id: request, queue_position: 0 }))
    server.on(`GET /fal-ai/kling-video/requests/${request}/status`, json({ status: 'COMPLETED', request_id: request }))
    const answered = { url, content_type: 'video/mp4', file_name: 'video.mp4', file_size: video.length }
    server.on(`GET /fal-ai/kling-video/requests/${request}`, json({ video: answered }))
  })
  afterAll(async () => {
    await app?.close()
    await server?.close()
  })

  const get = async (path: string) => (await client.get(`/api/v1${path}`, { token: ada.token })).body
  const order = async (output: Respond) => {
    server.on('GET /files/video.mp4', output)
    const { status, body } = await client.post(
      '/api/v1/generations',
      { model, prompt: 'a lighthouse' },
      { token: ada.token },
    )
    expect([status, body.price]).toEqual([201, 140])
    await until(
      async () => ['completed', 'failed'].includes((await get(`/generations/${body.id}`)).status),
      'the generation has ended',
    )
    return get(`/generations/${body.id}`)
  }
  const balance = async () => (await get('/credits/balance')).balance

  test('is stored unchanged and settled, and has no thumbnails', async () => {
    expect(await get(`/models/${model}`)).toMatchObject({ available: true, kind: 'video', credits: 140 })
    const ended = await order(file(video, 'video/mp4'))
    expect(ended).toMatchObject({ status: 'completed', failure: null })
    expect(await balance()).toBe(1_860)
    const { items } = await get(`/generations/${ended.id}/media`)
    expect(items).toHaveLength(1)
    expect(items[0]).toMatchObject({
      content_type: 'video/mp4',
      bytes: video.length,
      width: 64,
      height: 48,
      duration_ms: 1_000,
      variants: ['original'],
    })
    expect(await get(`/media/${items[0].id}`)).toEqual(items[0])

    await expectRanges(app.baseUrl, items[0].id, ada, video)
    const { response } = await fetchContent(app.baseUrl, items[0].id, ada)
    expect(response.headers.get('content-disposition')).toBe(`inline; filename="${items[0].id}.mp4"`)
    // A browser that opens the URL in a tab wraps the video in a page, and that page fetches it again.
    const policy = response.headers.get('content-security-policy')?.split('; ') ?? []
    expect(policy).toEqual(
      expect.arrayContaining(["default-src 'none'", "media-src 'self'", 'sandbox allow-same-origin']),
    )

    const path = `/api/v1/media/${items[0].id}/content?variant=`
    expect((await client.get(`${path}original`, { token: ada.token })).status).toBe(200)
    for (const variant of ['256', '512', '1024']) {
      const { status, body } = await client.get(`${path}${variant}`, { token: ada.token })
      expect([status, body.code]).toEqual([422, 'request.invalid'])
      expect(body.errors).toEqual([
        { in: 'query', pointer: '/variant', detail: 'must be original, because the media is a video' },
      ])
      // A caller without access gets the response for an unknown id.
      const bob = await register(client)
      expect((await client.get(`${path}${variant}`, { token: bob.token })).body.code).toBe('media.not_found')
    }
  }, 60_000)

  test('is refused and refunded when the file is no video, is truncated, or has trailing data', async () => {
    const png = await sharp({ create: { width: 96, height: 64, channels: 3, background: '#246' } })
      .png()
      .toBuffer()
    const before = await balance()
    for (const output of [
      file(png, 'video/mp4'),
      file(png, 'image/png'),
      file(video.subarray(0, 2_000), 'video/mp4'),
      file(Buffer.concat([video, Buffer.from('<script>')]), 'video/mp4'),
    ]) {
      const { id, ...ended } = await order(output)
      expect(ended).toMatchObject({ status: 'failed', failure: 'invalid_output' })
      expect(await get(`/generations/${id}/media`)).toEqual({ items: [], next_cursor: null })
    }
    expect(await balance()).toBe(before)
  }, 60_000)

  test('that is refused is ordered once, and its generation says why it was refused', async () => {
    const film = await readFilm()
    const submissions = () => server.count(`POST /${model}`)
    const fragmented = Buffer.concat([film, Buffer.from('\0\0\0\x08moof', 'latin1')])
    for (const [output, failure_detail] of [
      [file(fragmented, 'video/mp4'), 'fragmented'],
      [file(film.subarray(0, 2_000), 'video/mp4'), 'truncated'],
      [file('pixels', 'image/png'), 'type_not_accepted'],
    ] as const) {
      const before = submissions()
      expect(await order(output)).toMatchObject({ status: 'failed', failure: 'invalid_output', failure_detail })
      expect([failure_detail, submissions() - before]).toEqual([failure_detail, 1])
    }
  }, 60_000)

  test('with several tracks, media boxes or an open end is stored with a mark that a model made it', async () => {
    for (const name of ['timecode.mp4', 'chapters.mp4', 'two-mdat.mp4', 'mdat-size0.mp4', 'sixty-seconds.mp4']) {
      const ended = await order(file(await takenFile(name), 'video/mp4'))
      expect([name, ended.status]).toEqual([name, 'completed'])
      const { items } = await get(`/generations/${ended.id}/media`)
      const { bytes } = await fetchContent(app.baseUrl, items[0].id, ada)
      expect([name, bytes.length]).toEqual([name, items[0].bytes])
      expect([name, bytes.includes('digitalsourcetype/trainedAlgorithmicMedia')]).toEqual([name, true])
      expect([name, bytes.includes((await takenFile(name)).subarray(-200))]).toEqual([name, true])
    }
  }, 60_000)
})

/** Resident memory of a process in MiB. */
const residentMiB = async (pid: number) =>
  Number((await promisify(execFile)('ps', ['-o', 'rss=', '-p', String(pid)])).stdout) / 1_024

for (const runtime of ['bun', 'deno'] as const) {
  describe(`a video of 30 MiB on ${runtime}`, () => {
    let database: TestDatabase
    let sql: Sql
    let server: TestServer
    let ada: Person
    let video: Buffer
    let id: string

    beforeAll(async () => {
      video = stretch(await readFilm(), 30 * mebibyte)
      const directory = await newFolder()
      database = await createDatabase()
      sql = connectOnce(database.connection)
      server = await startServer({
        runtime,
        connection: database.connection,
        env: { MEDIA_DIR: directory, JOB_CONCURRENCY: '1' },
      })
      const client = api(server.baseUrl)
      ada = await register(client)
      const { token } = ada
      const order = { model: 'local/procedural', prompt: 'a lighthouse', parameters: { width: 64, height: 64 } }
      const { body } = await client.post('/api/v1/generations', order, { token })
      const isCompleted = async () =>
        (await client.get(`/api/v1/generations/${body.id}`, { token })).body.status === 'completed'
      await until(isCompleted, 'the picture is completed')
      const { items } = (await client.get(`/api/v1/generations/${body.id}/media`, { token })).body
      id = items[0].id
      // Replaces the picture by a video: no provider in this test makes videos.
      const sha256 = sha256Of(video)
      await createDiskObjects({ directory }).put(objectKey(sha256), video, 'video/mp4')
      await sql`
        insert into media_objects (sha256, content_type, bytes, width, height, duration_ms)
        values (${sha256}, 'video/mp4', ${video.length}, 64, 48, 1000)`
      await sql`update media set sha256 = ${sha256} where id = ${id}`
    }, 60_000)
    afterAll(async () => {
      await server?.stop()
      await sql?.end()
      await database?.drop()
    })

    test('is served whole, by range and to HEAD', async () => {
      await expectRanges(server.baseUrl, id, ada, video)
      const { status, body, headers } = await fetch(`${server.baseUrl}/api/v1/media/${id}/content`, {
        method: 'HEAD',
        headers: { authorization: `Bearer ${ada.token}` },
      })
      expect([status, body, headers.get('content-length')]).toEqual([200, null, String(video.length)])
    }, 60_000)

    test('costs less than 150 MiB of memory while 20 slow clients download it', async () => {
      const { port } = new URL(server.baseUrl)
      const before = await residentMiB(server.pid)
      let peak = before
      const sample = async () => {
        peak = Math.max(peak, await residentMiB(server.pid))
      }
      const connectSlowly = () => {
        const socket = connect(Number(port), '127.0.0.1')
        const lines = [`GET /api/v1/media/${id}/content HTTP/1.1`, 'host: velro', `authorization: Bearer ${ada.token}`]
        socket.write(`${[...lines, 'connection: close'].join('\r\n')}\r\n\r\n`)
        const client = { socket, bytes: 0, ended: false }
        // Reads the first bytes and then pauses.
        socket.on('data', (data) => {
          if (client.bytes === 0) socket.pause()
          client.bytes += data.length
        })
        socket.on('close', () => {
          client.ended = true
        })
        return client
      }
      const clients = Array.from({ length: 20 }, connectSlowly)
      await until(() => clients.every(({ bytes }) => bytes > 0), 'all have received bytes')
      for (let samples = 0; samples < 30; samples += 1) {
        await sample()
        await Bun.sleep(20)
      }
      expect(clients.every(({ bytes, ended }) => bytes < 10 * mebibyte && !ended)).toBeTrue()
      for (const { socket } of clients) socket.resume()
      await until(async () => {
        await sample()
        return clients.every(({ ended }) => ended)
      }, 'all downloads have ended')
      for (const { bytes } of clients) expect(bytes).toBeGreaterThanOrEqual(video.length)
      // Buffering it for every client would take 600 MiB.
      expect(peak - before).toBeLessThan(150)
    }, 60_000)
  })
}
