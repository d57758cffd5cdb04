import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createHash, randomBytes } from 'node:crypto'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createFailureResponse } from '../../src/http/runtime-failure.ts'
import { createDiskObjects } from '../../src/platform/disk-objects.ts'
import { fileSlice } from '../../src/platform/file-slice.ts'
import { createLog } from '../../src/platform/log.ts'
import { type ObjectStore, objectKey } from '../../src/platform/objects.ts'
import { createS3Objects } from '../../src/platform/s3-objects.ts'
import { createListener } from '../../src/platform/serve.ts'
import { newPicture } from '../harness/pictures.ts'
import { reapFolder } from '../harness/reaper.ts'
import { findS3Server, noS3Server, startS3 } from '../harness/s3.ts'
import { api, type Person, register, startServer, type TestServer } from '../harness.ts'
import { sendRaw } from './black-box/wire.ts'

const mebibyte = 1_048_576
const program = findS3Server()
if (program === undefined) console.warn(`downloads from S3 are not tested: ${noS3Server}`)

type Store = { objects: ObjectStore; env: Record<string, string>; stop(): Promise<void> }

const download = async (url: string, { token }: Person) =>
  new Uint8Array(await (await fetch(url, { headers: { authorization: `Bearer ${token}` } })).arrayBuffer())

const startStore = {
  disk: async (): Promise<Store> => {
    const directory = await mkdtemp(join(tmpdir(), 'velro-lengths-'))
    reapFolder(directory)
    return { objects: createDiskObjects({ directory }), env: { MEDIA_DIR: directory }, stop: async () => {} }
  },
  S3: async (): Promise<Store> => {
    const s3 = await startS3(program as string)
    const env = {
      S3_ENDPOINT: s3.endpoint,
      S3_REGION: s3.region,
      S3_BUCKET: s3.bucket,
      S3_ACCESS_KEY_ID: s3.accessKeyId,
      S3_SECRET_ACCESS_KEY: s3.secretAccessKey,
    }
    return { objects: createS3Objects(s3), env, stop: s3.stop }
  },
}

for (const kind of ['disk', 'S3'] as const) {
  describe.skipIf(kind === 'S3' && program === undefined)(`a download from ${kind}`, () => {
    let store: Store
    beforeAll(async () => {
      store = await startStore[kind]()
    }, 60_000)
    afterAll(() => store?.stop())

    for (const runtime of ['bun', 'deno'] as const) {
      describe(`on ${runtime}`, () => {
        let server: TestServer
        let ada: Person
        let path: string
        let sha256: string
        beforeAll(async () => {
          server = await startServer({ runtime, env: store.env })
          const client = api(server.baseUrl)
          ada = await register(client)
          const picture = await newPicture()
          const { status, body } = await client.post('/api/v1/media', picture, {
            token: ada.token,
            headers: { 'content-type': 'image/png' },
          })
          if (status !== 201) throw new Error(`The upload answered ${status} ${body.code}: ${server.output()}`)
          path = `/api/v1/media/${body.id}/content`
          sha256 = createHash('sha256')
            .update(await download(`${server.baseUrl}${path}`, ada))
            .digest('hex')
        }, 60_000)
        afterAll(() => server?.stop())

        /** Replaces a thumbnail: the store verifies the content of originals only. */
        const put = (variant: string, bytes: Uint8Array) =>
          store.objects.put(objectKey(sha256, variant), bytes, 'image/webp')
        const ask = async (variant: string, method: string, version: string, ...more: string[]) => {
          const head = [
            `${method} ${path}?variant=${variant} HTTP/${version}`,
            'host: x',
            `authorization: Bearer ${ada.token}`,
            ...more,
          ]
          const answer = await sendRaw(server.baseUrl, [`${head.join('\r\n')}\r\n\r\n`])
          const headers: Record<string, string | undefined> = Object.fromEntries(answer?.headers ?? [])
          return { headers, status: answer?.status, body: Buffer.from(answer?.body ?? '', 'latin1') }
        }

        test('has its length in GET as in HEAD, whole and by range, below and above 1 MiB', async () => {
          for (const [size, variant] of [
            [1, '256'],
            [mebibyte, '512'],
            [mebibyte + 1, '1024'],
            [5 * mebibyte, '256'],
          ] as const) {
            const bytes = randomBytes(size)
            await put(variant, bytes)
            for (const version of ['1.0', '1.1']) {
              const whole = await ask(variant, 'GET', version)
              const head = await ask(variant, 'HEAD', version)
              const length = String(size)
              expect([size, whole.status, whole.headers['content-length']]).toEqual([size, 200, length])
              expect([size, head.status, head.headers['content-length']]).toEqual([size, 200, length])
              expect(whole.headers['transfer-encoding']).toBeUndefined()
              expect(whole.body.equals(bytes)).toBe(true)
              expect(head.body).toHaveLength(0)
              for (const [first, last] of [
                [0, size - 1],
                [Math.floor(size / 2), size - 1],
                [0, Math.min(size - 1, mebibyte)],
              ] as const) {
                const part = await ask(variant, 'GET', version, `range: bytes=${first}-${last}`)
                expect([size, part.status, part.headers['content-length'], part.headers['content-range']]).toEqual([
                  size,
                  206,
                  String(last - first + 1),
                  `bytes ${first}-${last}/${size}`,
                ])
                expect(part.body.equals(bytes.subarray(first, last + 1))).toBe(true)
              }
              const changed = await ask(variant, 'GET', version, 'range: bytes=1-2', 'if-range: "another"')
              // Empty on Bun; a Content-Range has no meaning in a 200 (RFC 9110 §14.4).
              expect([
                changed.status,
                changed.headers['content-length'],
                changed.headers['content-range'] ?? '',
              ]).toEqual([200, length, ''])
              expect(changed.body.equals(bytes)).toBe(true)
            }
          }
        }, 60_000)

        test('is 503 without its bytes, and the next one works', async () => {
          const bytes = randomBytes(2 * mebibyte)
          await store.objects.delete(objectKey(sha256, '512'))
          for (const method of ['GET', 'HEAD']) expect((await ask('512', method, '1.1')).status).toBe(503)
          await put('512', bytes)
          expect((await ask('512', 'GET', '1.1')).status).toBe(200)
        })

        test('is sent to many clients at once', async () => {
          const bytes = randomBytes(3 * mebibyte)
          await put('512', bytes)
          const answers = await Promise.all(
            Array.from({ length: 20 }, () => ask('512', 'GET', '1.1', 'range: bytes=7-')),
          )
          for (const { status, body } of answers) {
            expect([status, body.equals(bytes.subarray(7))]).toEqual([206, true])
          }
        }, 60_000)
      })
    }
  })
}

test('a response whose file is gone is a problem on Bun, and the error goes to the log', async () => {
  const written: string[] = []
  const log = createLog('error', { write: (line) => void written.push(line) })
  const gone = () => new Response(fileSlice('/nonexistent/file', 0, 10), { headers: { 'content-length': '10' } })
  const server = createListener().listen(gone, {
    hostname: '127.0.0.1',
    port: 0,
    onFailure: createFailureResponse(log),
  })
  try {
    const response = await fetch(`http://127.0.0.1:${server.port}/`)
    const problem = (await response.json()) as Record<string, unknown>
    expect([response.status, response.headers.get('content-type')]).toEqual([500, 'application/problem+json'])
    expect(problem).toMatchObject({ code: 'server.failed', request_id: response.headers.get('x-request-id') })
    expect(written.join('')).toContain('/nonexistent/file')
  } finally {
    await server.stop(0)
  }
})
