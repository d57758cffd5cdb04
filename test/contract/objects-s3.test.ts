import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import type { ObjectStore } from '../../src/platform/objects.ts'
import { createS3Objects, type S3Options } from '../../src/platform/s3-objects.ts'
import { findS3Server, noS3Server, startS3 } from '../harness/s3.ts'
import { holdsObjects } from './objects.ts'

const program = findS3Server()
if (program === undefined) console.warn(`objects in S3 are not tested: ${noS3Server}`)

describe.skipIf(program === undefined)('objects in S3', () => {
  let server: S3Options & { stop(): Promise<void> }
  let store: ObjectStore

  beforeAll(async () => {
    server = await startS3(program as string)
    store = createS3Objects(server)
  })
  afterAll(() => server?.stop())

  holdsObjects(() => store)

  const key = `aa/${'a'.repeat(64)}`
  const eachCallOf = (other: ObjectStore) => [
    () => other.open(key),
    () => other.head(key),
    () => other.list(),
    () => other.probe(),
    () => other.put(`${key}.w256`, new Uint8Array(1), 'image/webp'),
  ]

  test('a wrong secret throws instead of reading as an empty store, and the error does not contain the secret', async () => {
    for (const call of eachCallOf(createS3Objects({ ...server, secretAccessKey: 'hunter2-hunter2' }))) {
      const error = await call().then(
        () => undefined,
        (reason: unknown) => reason,
      )
      expect(error).toBeInstanceOf(Error)
      expect(Bun.inspect(error)).not.toContain('hunter2')
    }
  })

  test('an unreachable or silent server throws within the time limit', async () => {
    const gone = createS3Objects({ ...server, endpoint: 'http://127.0.0.1:1' })
    for (const call of eachCallOf(gone)) await expect(call()).rejects.toThrow()
    using silent = Bun.listen({ hostname: '127.0.0.1', port: 0, socket: { data: () => {} } })
    const late = createS3Objects({ ...server, endpoint: `http://127.0.0.1:${silent.port}`, timeoutMs: 100 })
    for (const call of eachCallOf(late)) await expect(call()).rejects.toThrow()
  })

  test('a probe fails where the bucket does not exist, and names the reason', async () => {
    await expect(createS3Objects({ ...server, bucket: 'missing' }).probe()).rejects.toThrow(/NoSuchBucket|not exist/i)
  })

  test('a probe stores an empty object where the credentials may store but not list', async () => {
    const stored: string[] = []
    let isAllowed = true
    using limited = Bun.serve({
      hostname: '127.0.0.1',
      port: 0,
      fetch: (request) => {
        if (request.method === 'HEAD' || !isAllowed) return new Response(null, { status: 403 })
        stored.push(`${request.method} ${new URL(request.url).pathname}`)
        return new Response(null, { headers: { etag: '"kept"' } })
      },
    })
    const other = createS3Objects({ ...server, endpoint: `http://127.0.0.1:${limited.port}` })
    await other.probe()
    const empty = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
    expect(stored).toEqual([`PUT /velro/e3/${empty}`])
    isAllowed = false
    await expect(other.probe()).rejects.toThrow()
  })

  test('the time limit grows with the size of the body', async () => {
    using slow = Bun.serve({
      hostname: '127.0.0.1',
      port: 0,
      fetch: async (request) => {
        await request.arrayBuffer()
        await Bun.sleep(600)
        return new Response(null, { headers: { etag: '"kept"' } })
      },
    })
    const store = createS3Objects({ ...server, endpoint: `http://127.0.0.1:${slow.port}`, timeoutMs: 100 })
    const put = (bytes: number) => store.put(`${key}.w256`, new Uint8Array(bytes), 'image/webp')
    await expect(put(1_000)).rejects.toThrow()
    await put(10 * 1_048_576)
  })
})
