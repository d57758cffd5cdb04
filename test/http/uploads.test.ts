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
/** In turns, because one person may have half of what is taken at a time. */
const inTurn = (turn: number) => (turn % 2 === 0 ? ada : bea)

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'velro-media-'))
  reapFolder(folder)
  app = await startApp({ clock, config: { mediaDirectory: folder, dbConnections: 40, renderWorkers: 1 } })
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
const told = ({ status, body }: Answer) => (status < 400 ? String(status) : `${status} ${body.code}`)
const countRows = async () => {
  const [row] = await sql<{ media: number; objects: number; claims: number; orphans: number }[]>`
    select (select count(*)::int from media) as media, (select count(*)::int from media_objects) as objects,
           (select count(*)::int from media_claims) as claims, (select count(*)::int from media_orphans) as orphans`
  return row as { media: number; objects: number; claims: number; orphans: number }
}
const keysOf = async (directory: string) =>
  (await createDiskObjects({ directory }).list()).objects.map(({ key }) => key)

/** A client whose every byte is ours. */
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
    /** What was answered, when it was. */
    answer: async () => {
      await until(
        () => /^HTTP.*\r\n\r\n.*"code":"[^"]*"/s.test(received) || /^HTTP\S* 201/.test(received) || closed,
        'an answer',
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
  test('of the same bytes, twice at once, is two media and one object, and that stays until both are gone', async () => {
    const bytes = await newPicture()
    const before = { rows: await countRows(), keys: await keysOf(folder) }
    const answers = await Promise.all([1, 2, 3, 4].map(() => upload(bytes)))
    expect(answers.map(told)).toEqual(['201', '201', '201', '201'])
    expect(await countRows()).toEqual({
      ...before.rows,
      media: before.rows.media + 4,
      objects: before.rows.objects + 1,
    })
    const [last, ...others] = answers.map(({ body }) => body.id as string)
    await Promise.all(others.map((id) => client.delete(`${path}/${id}`, { token: ada.token })))
    await until(async () => (await countRows()).orphans === 0, 'they were looked at')
    const content = await fetch(`${app.baseUrl}${path}/${last}/content`, {
      headers: { authorization: `Bearer ${ada.token}` },
    })
    expect(Buffer.from(await content.arrayBuffer()).equals(bytes)).toBe(true)
    await client.delete(`${path}/${last}`, { token: ada.token })
    await until(async () => Bun.deepEquals(await countRows(), before.rows), 'the object is gone')
    expect(await keysOf(folder)).toEqual(before.keys)
  })

  test('of 25 MiB is taken, and of one byte more it is not, announced or not', async () => {
    const noise = await plain(400, 400).png({ compressionLevel: 0 }).toBuffer()
    // A PNG may have chunks nobody knows.
    const padded = (length: number) => {
      const filling = length - noise.length - 12
      const chunk = Buffer.alloc(filling + 12)
      chunk.writeUInt32BE(filling, 0)
      chunk.write('teSt', 4)
      chunk.writeUInt32BE(Bun.hash.crc32(chunk.subarray(4, filling + 8)), filling + 8)
      return Buffer.concat([noise.subarray(0, 33), chunk, noise.subarray(33)])
    }
    const whole = await upload(padded(maxBytes))
    expect([told(whole), whole.body.bytes]).toEqual(['201', maxBytes])
    expect(told(await upload(padded(maxBytes + 1)))).toBe('413 media.too_large')
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
    await until(async () => (await countRows()).objects === 0, 'it is gone')
  }, 60_000)

  test('of a stranger is refused before a byte of it came, and what it pours out all the same is not kept', async () => {
    const announced = { 'content-length': String(maxBytes) }
    const silent = await open(headersOf(announced, null as never))
    expect(await silent.answer()).toBe('401 identity.not_signed_in')
    silent.socket.destroy()
    const before = process.memoryUsage.rss()
    const piece = Buffer.alloc(262_144)
    let poured = 0
    for (let round = 0; round < 20; round += 1) {
      const stranger = await open(headersOf(announced, null as never))
      for (let sent = 0; sent < maxBytes && !stranger.socket.destroyed; sent += piece.length) await stranger.send(piece)
      expect(await stranger.answer()).toBe('401 identity.not_signed_in')
      poured += stranger.socket.bytesWritten
      stranger.socket.destroy()
    }
    // Or this says nothing.
    expect(poured).toBeGreaterThan(250_000_000)
    expect(process.memoryUsage.rss() - before).toBeLessThan(250_000_000)
  }, 60_000)

  /** Whatever came of those before. */
  const hasRoom = () =>
    until(async () => {
      const bytes = await newPicture()
      const answers = await Promise.all(
        Array.from({ length: 8 }, (_, turn) => upload(bytes, 'image/png', inTurn(turn))),
      )
      return answers.every(({ status }) => status === 201)
    }, 'there is room for eight')
  const isKept = async (bytes: Uint8Array) => {
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    const rows = await sql`select from media_objects where sha256 = ${sha256}`
    return rows.length > 0 || (await keysOf(folder)).some((key) => key.includes(sha256))
  }

  test('that comes too slowly leaves nothing, and is not waited for longer than a minute', async () => {
    await hasRoom()
    const bytes = await newPicture()
    const length = { 'content-length': String(bytes.length) }
    const slow = await Promise.all(Array.from({ length: 8 }, (_, turn) => open(headersOf(length, inTurn(turn)))))
    for (const each of slow) await each.send(bytes.subarray(0, 100))
    // When there is no room, all of them are being read.
    const isFull = async () => told(await upload(new Uint8Array())) === '503 media.busy'
    await until(isFull, 'all are under way')
    // More than any other request may take.
    clock.advance(50_000)
    for (const each of slow) await each.send(bytes.subarray(100, 200))
    await Bun.sleep(100)
    expect(await isFull()).toBe(true)
    clock.advance(11_000)
    for (const each of slow) {
      expect(await each.answer()).toBe('503 request.timeout')
      each.socket.destroy()
    }
    await hasRoom()
    expect(await isKept(bytes)).toBe(false)
  })

  test('of who was signed out while it came is not taken', async () => {
    await hasRoom()
    const bytes = await newPicture()
    const length = { 'content-length': String(bytes.length) }
    for (const [end, by] of [
      ['/api/v1/auth/logout', await register(client)],
      ['/api/v1/auth/logout-all', await register(client)],
    ] as const) {
      const others = await Promise.all(Array.from({ length: 7 }, (_, turn) => open(headersOf(length, inTurn(turn)))))
      const coming = await open(headersOf(length, by))
      await coming.send(bytes.subarray(0, -10))
      await until(async () => told(await upload(new Uint8Array())) === '503 media.busy', 'all are under way')
      expect((await client.post(end, undefined, { token: by.token })).status).toBe(204)
      await coming.send(bytes.subarray(-10))
      expect(await coming.answer()).toBe('401 identity.not_signed_in')
      for (const { socket } of [coming, ...others]) socket.destroy()
      await hasRoom()
    }
    expect(await isKept(bytes)).toBe(false)
  }, 60_000)

  test('that breaks off leaves nothing, and makes room', async () => {
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
    await hasRoom()
    expect(await isKept(bytes)).toBe(false)
    expect(told(await upload(bytes))).toBe('201')
  })

  test('is one of eight at a time; the ninth is told so before it is read, and gets in when one is over', async () => {
    await hasRoom()
    const bytes = await newPicture()
    const waiting = await Promise.all(
      Array.from({ length: 8 }, (_, turn) => open(headersOf({ 'content-length': String(bytes.length) }, inTurn(turn)))),
    )
    const ninth = async () => {
      const one = await open(headersOf({ 'content-length': String(bytes.length) }))
      const answer = one.answer()
      const first = await Promise.race([answer, Bun.sleep(200).then(() => 'none')])
      one.socket.destroy()
      return first
    }
    await until(async () => (await ninth()) === '503 media.busy', 'all eight are under way')
    const busy = await upload(bytes)
    expect([told(busy), busy.headers.get('retry-after')]).toEqual(['503 media.busy', '1'])
    await waiting[0]?.send(bytes)
    expect(await waiting[0]?.answer()).toBe('201')
    await until(async () => told(await upload(bytes)) === '201', 'there is room again')
    for (const { socket } of waiting) socket.destroy()
    await hasRoom()
  }, 60_000)

  test('is one of four of a person at a time, which leaves room for others', async () => {
    await hasRoom()
    const bytes = await newPicture()
    const length = { 'content-length': String(bytes.length) }
    const slow = await Promise.all(Array.from({ length: 4 }, () => open(headersOf(length))))
    await until(async () => told(await upload(new Uint8Array())) === '503 media.busy', 'all four are under way')
    expect(told(await upload(bytes, 'image/png', bea))).toBe('201')
    for (const { socket } of slow) socket.destroy()
    await hasRoom()
  }, 60_000)

  test('whose bytes cannot be kept is told so, and leaves nothing', async () => {
    const blocked = join(folder, 'no-folder')
    await Bun.write(blocked, 'a file where a folder should be')
    const other = await startApp({ connection: app.connection, config: { mediaDirectory: blocked, renderWorkers: 1 } })
    const before = await countRows()
    try {
      expect(told(await upload(await newPicture(), 'image/png', ada, api(other.baseUrl)))).toBe('503 media.unavailable')
      // Given up at once. This one cannot take it away either; another one's next sweep does.
      await until(async () => {
        await app.services.mediaStorage.sweep()
        return Bun.deepEquals(await countRows(), before)
      }, 'nothing is left')
    } finally {
      await other.close()
    }
  })
})

for (const runtime of ['bun', 'deno'] as const) {
  describe(`two hundred hostile uploads to ${runtime}`, () => {
    test('are refused one by one, cost bounded memory, leave nothing, and take nobody with them', async () => {
      const directory = await mkdtemp(join(tmpdir(), 'velro-media-'))
      reapFolder(directory)
      const server = await startServer({
        runtime,
        env: { MEDIA_DIR: directory, JOB_CONCURRENCY: '0', RENDER_WORKERS: '1' },
      })
      const own = connectOnce(server.connection)
      const rssOf = async () => {
        const status = await Bun.file(`/proc/${server.pid}/status`).text()
        return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) * 1_024
      }
      try {
        const to = api(server.baseUrl)
        const person = await register(to)
        // What is as large as may be, so that everything that is needed once is there.
        const largest = png(7_000, 7_000, rowsOf(7_000, 7_000))
        expect(told(await upload(largest, 'image/png', person, to))).toBe('201')
        const before = await rssOf()
        const cases = await hostileUploads()
        let most = 0
        for (let count = 0; count < 200; ) {
          const some = Array.from({ length: 4 }, (_, at) => cases[(count + at) % cases.length]).filter(
            (each) => each !== undefined,
          )
          const answers = await Promise.all(some.map(({ bytes, type }) => upload(bytes, type, person, to)))
          expect(answers.map(told)).toEqual(some.map(({ refusal }) => refusal))
          count += some.length
          most = Math.max(most, (await rssOf()) - before)
        }
        expect(most).toBeLessThan(300_000_000)
        expect(told(await upload(await newPicture(), 'image/png', person, to))).toBe('201')
        expect(await own`select from media`).toHaveLength(2)
        expect(await own`select from media_objects`).toHaveLength(2)
        expect(await own`select from media_claims`).toHaveLength(0)
        expect(await keysOf(directory)).toHaveLength(8)
      } finally {
        await own.end()
        await server.stop()
      }
    }, 120_000)
  })
}
