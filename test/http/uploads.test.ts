import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createHash } from 'node:crypto'
import { mkdtemp } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { manualClock } from '../../src/kit/clock.ts'
import { createDiskObjects } from '../../src/platform/disk-objects.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { hostileUploads, newPicture, plain, png, rowsOf } from '../harness/pictures.ts'
import { reapFolder } from '../harness/reaper.ts'
import { type Answer, type Api, api, type Person, register, startApp, startServer, type TestApp } from '../harness.ts'
import { headOf } from './black-box/wire.ts'

const path = '/api/v1/media'
const maxBytes = 25 * 1_048_576

const clock = manualClock(Date.now())
let app: TestApp
let client: Api
let sql: Sql
let folder: string
let ada: Person
let bea: Person
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'velro-media-'))
  reapFolder(folder)
  app = await startApp({
    clock,
    config: { mediaDirectory: folder, dbConnections: 40, renderWorkers: 1, trustedProxies: ['127.0.0.1'] },
  })
  sql = connectOnce(app.connection)
  client = api(app.baseUrl)
  ada = await register(client)
  bea = await register(client)
})
afterAll(async () => {
  await sql?.end()
  await app?.close()
})

const upload = (bytes: Uint8Array, type = 'image/png', { token }: Person = ada, to = client) =>
  to.post(path, new Uint8Array(bytes), { token, headers: { 'content-type': type } })
const outcomeOf = ({ status, body }: Answer) => (status < 400 ? String(status) : `${status} ${body.code}`)
const countRows = async () => {
  const [row] = await sql<{ media: number; objects: number; claims: number; orphans: number }[]>`
    select (select count(*)::int from media) as media, (select count(*)::int from media_objects) as objects,
           (select count(*)::int from media_claims) as claims, (select count(*)::int from media_orphans) as orphans`
  return row as { media: number; objects: number; claims: number; orphans: number }
}
const keysOf = async (directory: string) =>
  (await createDiskObjects({ directory }).list()).objects.map(({ key }) => key)

/** A raw connection, to send a request byte by byte. */
const open = async (headers: Record<string, string>, baseUrl = app.baseUrl) => {
  const { hostname, port } = new URL(baseUrl)
  const socket: Socket = connect({ host: hostname, port: Number(port) })
  let received = ''
  let closed = false
  socket.on('data', (chunk) => {
    received += chunk
  })
  socket.on('close', () => {
    closed = true
  })
  socket.on('error', () => {})
  await new Promise<void>((resolve) => socket.once('connect', () => resolve()))
  socket.write(headOf('POST', path, headers))
  return {
    socket,
    send: (part: string | Uint8Array) => new Promise<void>((resolve) => socket.write(part, () => resolve())),
    /** Status and code of the response, once it arrives; undefined: the connection was closed without one. */
    answer: async () => {
      await until(
        () => /^HTTP.*\r\n\r\n.*"code":"[^"]*"/s.test(received) || /^HTTP\S* 201/.test(received) || closed,
        'a response arrives',
      )
      const [, status] = /^HTTP\S* (\d+)/.exec(received) ?? []
      const [, code] = /"code":"([^"]*)"/.exec(received) ?? []
      return status === undefined ? undefined : [status, code].filter(Boolean).join(' ')
    },
  }
}
const headersOf = (more: Record<string, string>, person: Person | undefined = ada) => ({
  ...(person && { authorization: `Bearer ${person.token}` }),
  'content-type': 'image/png',
  ...more,
})

describe('an upload', () => {
  test('of the same bytes, four times concurrently, makes four media of one object, deleted with the last of them', async () => {
    const bytes = await newPicture()
    const before = { rows: await countRows(), keys: await keysOf(folder) }
    const answers = await Promise.all([1, 2, 3, 4].map(() => upload(bytes)))
    expect(answers.map(outcomeOf)).toEqual(['201', '201', '201', '201'])
    expect(await countRows()).toEqual({
      ...before.rows,
      media: before.rows.media + 4,
      objects: before.rows.objects + 1,
    })
    const [last, ...others] = answers.map(({ body }) => body.id as string)
    await Promise.all(others.map((id) => client.delete(`${path}/${id}`, { token: ada.token })))
    await until(async () => (await countRows()).orphans === 0, 'the orphans are swept')
    const content = await fetch(`${app.baseUrl}${path}/${last}/content`, {
      headers: { authorization: `Bearer ${ada.token}` },
    })
    expect(Buffer.from(await content.arrayBuffer()).equals(bytes)).toBe(true)
    await client.delete(`${path}/${last}`, { token: ada.token })
    await until(async () => Bun.deepEquals(await countRows(), before.rows), 'the object is deleted')
    expect(await keysOf(folder)).toEqual(before.keys)
  })

  test('of 25 MiB is accepted, and of one byte more refused, with Content-Length or chunked', async () => {
    const noise = await plain(400, 400).png({ compressionLevel: 0 }).toBuffer()
    // A PNG may contain unknown chunks.
    const padded = (length: number) => {
      const filling = length - noise.length - 12
      const chunk = Buffer.alloc(filling + 12)
      chunk.writeUInt32BE(filling, 0)
      chunk.write('teSt', 4)
      chunk.writeUInt32BE(Bun.hash.crc32(chunk.subarray(4, filling + 8)), filling + 8)
      return Buffer.concat([noise.subarray(0, 33), chunk, noise.subarray(33)])
    }
    const whole = await upload(padded(maxBytes))
    expect([outcomeOf(whole), whole.body.bytes]).toEqual(['201', maxBytes])
    expect(outcomeOf(await upload(padded(maxBytes + 1)))).toBe('413 media.too_large')
    const chunked = await open(headersOf({ 'transfer-encoding': 'chunked' }))
    const piece = padded(maxBytes + 1)
    for (let at = 0; at < piece.length && !chunked.socket.destroyed; at += 1_048_576) {
      const part = piece.subarray(at, at + 1_048_576)
      await chunked.send(`${part.length.toString(16)}\r\n`)
      await chunked.send(part)
      await chunked.send('\r\n')
    }
    expect(await chunked.answer()).toBe('413 media.too_large')
    chunked.socket.destroy()
    await client.delete(`${path}/${whole.body.id}`, { token: ada.token })
    await until(async () => (await countRows()).objects === 0, 'the object is deleted')
  }, 60_000)

  test('without authentication is refused before its body arrives, and a body sent anyway is not buffered', async () => {
    const announced = { 'content-length': String(maxBytes) }
    const silent = await open(headersOf(announced, null as never))
    expect(await silent.answer()).toBe('401 identity.not_signed_in')
    silent.socket.destroy()
    const before = process.memoryUsage.rss()
    const piece = Buffer.alloc(262_144)
    let sentInAll = 0
    for (let round = 0; round < 20; round += 1) {
      const anonymous = await open(headersOf(announced, null as never))
      for (let sent = 0; sent < maxBytes && !anonymous.socket.destroyed; sent += piece.length)
        await anonymous.send(piece)
      expect(await anonymous.answer()).toBe('401 identity.not_signed_in')
      sentInAll += anonymous.socket.bytesWritten
      anonymous.socket.destroy()
    }
    // Guards the test: enough was sent to show in the memory.
    expect(sentInAll).toBeGreaterThan(250_000_000)
    expect(process.memoryUsage.rss() - before).toBeLessThan(250_000_000)
  }, 60_000)

  const slotsAre = (inFlight: number, waiting: number) => {
    const { load } = app.services.uploads
    return until(
      () => load.inFlight === inFlight && load.waiting === waiting,
      `${inFlight} slots in use, ${waiting} waiting`,
    )
  }
  /** Enough for a slot, and not all of the body. */
  const beginning = Buffer.alloc(20_000)
  const announced = { 'content-length': '1000000' }
  const beginUpload = async (person: Person, address = '192.0.2.1') => {
    const upload = await open(headersOf({ ...announced, 'x-forwarded-for': address }, person))
    await upload.send(beginning)
    return upload
  }
  const isStored = async (bytes: Uint8Array) => {
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    const rows = await sql`select from media_objects where sha256 = ${sha256}`
    return rows.length > 0 || (await keysOf(folder)).some((key) => key.includes(sha256))
  }

  test('that sends too little in five seconds is ended with 408 and leaves nothing behind, with or without a slot', async () => {
    await slotsAre(0, 0)
    const bytes = await newPicture()
    const opening = await open(headersOf(announced, bea))
    await opening.send(bytes.subarray(0, 100))
    const reading = await beginUpload(ada)
    await slotsAre(1, 0)
    // By the time of this answer the session of the first upload is known, and its body is read.
    expect((await client.get('/api/v1/auth/me', { token: bea.token })).status).toBe(200)
    clock.advance(5_001)
    for (const each of [opening, reading]) {
      expect(await each.answer()).toBe('408 media.too_slow')
      each.socket.destroy()
    }
    await slotsAre(0, 0)
    expect(await isStored(bytes)).toBe(false)
  })

  test('is refused when its session ends while the body arrives', async () => {
    const bytes = await newPicture()
    for (const signOut of ['/api/v1/auth/logout', '/api/v1/auth/logout-all']) {
      const person = await register(client)
      const uploading = await open(headersOf({ 'content-length': String(bytes.length) }, person))
      await uploading.send(bytes.subarray(0, -10))
      expect((await client.post(signOut, undefined, { token: person.token })).status).toBe(204)
      await uploading.send(bytes.subarray(-10))
      expect(await uploading.answer()).toBe('401 identity.not_signed_in')
      uploading.socket.destroy()
    }
    await slotsAre(0, 0)
    expect(await isStored(bytes)).toBe(false)
  }, 60_000)

  test('that breaks off leaves nothing behind and frees its slot', async () => {
    const bytes = await newPicture()
    for (let round = 0; round < 8; round += 1) {
      const broken = await open(headersOf({ 'content-length': String(bytes.length) }))
      await broken.send(bytes.subarray(0, -10))
      broken.socket.destroy()
      const cut = await open(headersOf({ 'transfer-encoding': 'chunked' }))
      await cut.send(`${bytes.length.toString(16)}\r\n`)
      await cut.send(bytes)
      cut.socket.destroy()
    }
    const halfway = await beginUpload(ada)
    await slotsAre(1, 0)
    halfway.socket.destroy()
    await slotsAre(0, 0)
    expect(await isStored(bytes)).toBe(false)
    expect(outcomeOf(await upload(bytes))).toBe('201')
  })

  test('beyond two of a person waits for one of them to end, while those of others have slots', async () => {
    await slotsAre(0, 0)
    const bytes = await newPicture()
    const two = await Promise.all([beginUpload(ada), beginUpload(ada)])
    await slotsAre(2, 0)
    const third = upload(bytes)
    await slotsAre(2, 1)
    expect(outcomeOf(await upload(bytes, 'image/png', bea))).toBe('201')
    two[0]?.socket.destroy()
    expect(outcomeOf(await third)).toBe('201')
    two[1]?.socket.destroy()
    await slotsAre(0, 0)
  }, 60_000)

  test('beyond eight of a person is refused before its body is read: 429 with the limit and Retry-After', async () => {
    const slow = await Promise.all(Array.from({ length: 8 }, () => open(headersOf(announced))))
    let refused: Answer | undefined
    await until(async () => {
      refused = await upload(new Uint8Array())
      return refused.status === 429
    }, 'eight uploads are under way')
    expect([outcomeOf(refused as Answer), refused?.body.limit, refused?.headers.get('retry-after')]).toEqual([
      '429 media.too_many_uploads',
      8,
      '5',
    ])
    expect(outcomeOf(await upload(await newPicture(), 'image/png', bea))).toBe('201')
    for (const { socket } of slow) socket.destroy()
    await until(async () => outcomeOf(await upload(new Uint8Array())) === '422 media.empty', 'they have ended')
  }, 60_000)

  test('of an address have six of the eight slots, with any number of accounts, and others come before those that wait', async () => {
    await slotsAre(0, 0)
    const ten = await Promise.all(Array.from({ length: 10 }, () => register(client)))
    const slow = await Promise.all([...ten, ...ten].map((each, index) => beginUpload(each, `2001:db8::${index}`)))
    await slotsAre(6, 14)
    expect(outcomeOf(await upload(await newPicture(), 'image/png', bea))).toBe('201')
    const two = await Promise.all([1, 2].map((last) => beginUpload(ada, `198.51.100.${last}`)))
    await slotsAre(8, 14)
    const others = upload(await newPicture(), 'image/png', bea)
    await slotsAre(8, 15)
    for (const { socket } of two) socket.destroy()
    expect(outcomeOf(await others)).toBe('201')
    for (const { socket } of slow) socket.destroy()
    await slotsAre(0, 0)
  }, 60_000)

  test('that finds all slots taken for ten seconds is refused with 503 and Retry-After', async () => {
    await slotsAre(0, 0)
    const four = await Promise.all(Array.from({ length: 4 }, () => register(client)))
    const holders = await Promise.all([...four, ...four].map((each, index) => beginUpload(each, `192.0.2.${index}`)))
    await slotsAre(8, 0)
    const waiting = upload(await newPicture())
    await slotsAre(8, 1)
    clock.advance(10_001)
    const busy = await waiting
    expect([outcomeOf(busy), busy.headers.get('retry-after')]).toEqual(['503 media.busy', '1'])
    for (const { socket } of holders) socket.destroy()
    await slotsAre(0, 0)
  }, 60_000)

  test('whose bytes cannot be stored is reported as unavailable, and leaves nothing behind', async () => {
    const blocked = join(folder, 'no-folder')
    await Bun.write(blocked, 'a file where a folder should be')
    const other = await startApp({ connection: app.connection, config: { mediaDirectory: blocked, renderWorkers: 1 } })
    const before = await countRows()
    try {
      expect(outcomeOf(await upload(await newPicture(), 'image/png', ada, api(other.baseUrl)))).toBe(
        '503 media.unavailable',
      )
      // Discarded at once. This instance cannot delete the object either; the next sweep of another one does.
      await until(async () => {
        await app.services.mediaStorage.sweep()
        return Bun.deepEquals(await countRows(), before)
      }, 'the claim and the object are removed')
    } finally {
      await other.close()
    }
  })
})

for (const runtime of ['bun', 'deno'] as const) {
  describe(`200 hostile uploads to ${runtime}`, () => {
    test('are each refused, in bounded memory, without leaving anything behind or failing valid uploads', async () => {
      const directory = await mkdtemp(join(tmpdir(), 'velro-media-'))
      reapFolder(directory)
      const server = await startServer({
        runtime,
        env: { MEDIA_DIR: directory, JOB_CONCURRENCY: '0', RENDER_WORKERS: '1' },
      })
      const serverSql = connectOnce(server.connection)
      const rssOf = async () => {
        const status = await Bun.file(`/proc/${server.pid}/status`).text()
        return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) * 1_024
      }
      try {
        const to = api(server.baseUrl)
        const person = await register(to)
        // The largest accepted picture first, so that one-time allocations are not counted.
        const largest = png(7_000, 7_000, rowsOf(7_000, 7_000))
        expect(outcomeOf(await upload(largest, 'image/png', person, to))).toBe('201')
        const before = await rssOf()
        const cases = await hostileUploads()
        let maxGrowth = 0
        for (let count = 0; count < 200; ) {
          const batch = Array.from({ length: 4 }, (_, offset) => cases[(count + offset) % cases.length]).filter(
            (each) => each !== undefined,
          )
          const answers = await Promise.all(batch.map(({ bytes, type }) => upload(bytes, type, person, to)))
          expect(answers.map(outcomeOf)).toEqual(batch.map(({ refusal }) => refusal))
          count += batch.length
          maxGrowth = Math.max(maxGrowth, (await rssOf()) - before)
        }
        expect(maxGrowth).toBeLessThan(300_000_000)
        expect(outcomeOf(await upload(await newPicture(), 'image/png', person, to))).toBe('201')
        expect(await serverSql`select from media`).toHaveLength(2)
        expect(await serverSql`select from media_objects`).toHaveLength(2)
        expect(await serverSql`select from media_claims`).toHaveLength(0)
        expect(await keysOf(directory)).toHaveLength(8)
      } finally {
        await serverSql.end()
        await server.stop()
      }
    }, 120_000)
  })
}
