import { describe, expect, test } from 'bun:test'
import { createHash, randomBytes } from 'node:crypto'
import { RangeNotSatisfiable } from '../../src/kit/byte-range.ts'
import {
  closeObject,
  maxObjectBytes,
  ObjectContentRefused,
  ObjectKeyRefused,
  type ObjectStore,
  ObjectTooLarge,
  objectKey,
} from '../../src/platform/objects.ts'

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')
const streamOf = (...pieces: (Uint8Array | Error)[]) =>
  new ReadableStream<Uint8Array>({
    pull: (controller) => {
      const piece = pieces.shift()
      if (piece === undefined) controller.close()
      else if (piece instanceof Error) controller.error(piece)
      else controller.enqueue(piece)
    },
  })
const reasonOf = (promise: Promise<unknown>) =>
  promise.then(
    () => undefined,
    (error: unknown) => error,
  )

const read = async (store: ObjectStore, key: string, ...range: [Parameters<ObjectStore['open']>[1]?]) => {
  const found = await store.open(key, ...range)
  if (found === undefined) return undefined
  const { body, ...rest } = found
  return { ...rest, bytes: new Uint8Array(await new Response(body).arrayBuffer()) }
}

const notKeys = [
  '',
  'x',
  '../../etc/passwd',
  `aa/${'a'.repeat(63)}`,
  `aa/${'a'.repeat(64)}/../../x`,
  `ab/${'a'.repeat(64)}`,
  `AA/${'A'.repeat(64)}`,
  `aa/${'a'.repeat(64)}.`,
  `aa/${'a'.repeat(64)}.w-256`,
  `aa/${'a'.repeat(64)}.${'v'.repeat(17)}`,
  `aa/${'a'.repeat(64)}\n`,
  `/aa/${'a'.repeat(64)}`,
]

/** The contract of `ObjectStore`, run by every implementation. */
export const holdsObjects = (store: () => ObjectStore) => {
  const fresh = (length = 1_000) => {
    const bytes = new Uint8Array(randomBytes(length))
    return { bytes, key: objectKey(sha256(bytes)) }
  }

  test('an object put from bytes or from a stream can be opened and reports its length', async () => {
    const { bytes, key } = fresh(200_000)
    expect([await store().open(key), await store().head(key)]).toEqual([undefined, undefined])
    await store().put(key, bytes, 'image/png')
    expect(await read(store(), key)).toEqual({ first: 0, length: 200_000, total: 200_000, bytes })
    expect(await store().head(key)).toEqual({ length: 200_000 })
    const other = fresh(200_000)
    await store().put(other.key, streamOf(other.bytes.slice(0, 70_000), other.bytes.slice(70_000)), 'image/png')
    expect((await read(store(), other.key))?.bytes).toEqual(other.bytes)
  })

  test('an object may be put from shared memory', async () => {
    const { bytes, key } = fresh()
    const shared = new Uint8Array(new SharedArrayBuffer(bytes.length))
    shared.set(bytes)
    await store().put(key, shared, 'image/png')
    expect((await read(store(), key))?.bytes).toEqual(bytes)
  })

  test('putting the same object again, even concurrently, changes nothing', async () => {
    const { bytes, key } = fresh()
    await Promise.all([1, 2, 3].map(() => store().put(key, bytes, 'image/png')))
    await store().put(key, bytes, 'image/png')
    expect((await read(store(), key))?.bytes).toEqual(bytes)
    expect((await store().list(key)).objects.map((object) => object.key)).toEqual([key])
  })

  test('an object may be empty', async () => {
    const key = objectKey(sha256(new Uint8Array()))
    await store().put(key, new Uint8Array(), 'image/png')
    expect(await read(store(), key)).toEqual({ first: 0, length: 0, total: 0, bytes: new Uint8Array() })
  })

  test('content with another SHA-256 than the key is refused and not stored; a variant may have any content', async () => {
    const { bytes, key } = fresh()
    expect(await reasonOf(store().put(key, new Uint8Array(10), 'image/png'))).toBeInstanceOf(ObjectContentRefused)
    expect(await store().head(key)).toBeUndefined()
    await store().put(`${key}.w256`, bytes.slice(0, 10), 'image/webp')
    expect(await store().head(`${key}.w256`)).toEqual({ length: 10 })
    expect(await store().head(key)).toBeUndefined()
  })

  test('a stream that fails or exceeds the size limit stores nothing', async () => {
    const { bytes, key } = fresh()
    const broken = store().put(`${key}.w256`, streamOf(bytes, new Error('the client went away')), 'image/webp')
    expect(String(await reasonOf(broken))).toContain('the client went away')
    let cancelled = false
    const endless = new ReadableStream<Uint8Array>({
      pull: (controller) => controller.enqueue(new Uint8Array(maxObjectBytes / 8)),
      cancel: () => {
        cancelled = true
      },
    })
    expect(await reasonOf(store().put(`${key}.w256`, endless, 'image/webp'))).toBeInstanceOf(ObjectTooLarge)
    expect(cancelled).toBe(true)
    expect(await store().list(key)).toEqual({ objects: [], next: undefined })
  })

  describe('a range of an object', () => {
    test('returns the requested bytes and ends at the end of the object', async () => {
      const { bytes, key } = fresh(100_000)
      await store().put(key, bytes, 'image/png')
      const cases = [
        [{ first: 0, last: 0 }, 0, 1],
        [{ first: 10, last: 79_999 }, 10, 80_000],
        [{ first: 99_999 }, 99_999, 100_000],
        [{ first: 99_000, last: 900_000 }, 99_000, 100_000],
        [{ suffix: 1 }, 99_999, 100_000],
        [{ suffix: 900_000 }, 0, 100_000],
      ] as const
      for (const [range, first, end] of cases) {
        expect(await read(store(), key, range)).toEqual({
          first,
          length: end - first,
          total: 100_000,
          bytes: bytes.slice(first, end),
        })
      }
    })

    test('beyond the end throws with the length of the object; of a missing object it is undefined', async () => {
      const { bytes, key } = fresh(100)
      for (const range of [{ first: 100 }, { suffix: 5 }]) expect(await store().open(key, range)).toBeUndefined()
      await store().put(key, bytes, 'image/png')
      for (const range of [{ first: 100 }, { first: 100, last: 200 }, { suffix: 0 }]) {
        const reason = await reasonOf(store().open(key, range))
        expect(reason).toBeInstanceOf(RangeNotSatisfiable)
        expect((reason as RangeNotSatisfiable).total).toBe(100)
      }
    })
  })

  test('the body of an object can be cancelled, before it is read or in the middle', async () => {
    const { bytes, key } = fresh(500_000)
    await store().put(key, bytes, 'image/png')
    const unread = await store().open(key)
    if (unread !== undefined) closeObject(unread)
    const body = (await store().open(key))?.body
    const reader = (body instanceof Blob ? body.stream() : body)?.getReader()
    expect((await reader?.read())?.value?.length).toBeGreaterThan(0)
    await reader?.cancel()
    await store().delete(key)
  })

  test('a deleted object does not exist, and deleting it again succeeds', async () => {
    const { bytes, key } = fresh()
    await store().put(key, bytes, 'image/png')
    await store().put(`${key}.w256`, bytes, 'image/webp')
    await store().delete(key)
    await store().delete(key)
    expect([await store().head(key), await store().open(key)]).toEqual([undefined, undefined])
    expect(await store().head(`${key}.w256`)).toEqual({ length: 1_000 })
  })

  test('a listing is in key order, by prefix and in pages, with the modification time of each object', async () => {
    const sha = sha256(randomBytes(8))
    const keys = Array.from({ length: 1_003 }, (_, index) => `${objectKey(sha)}.v${1_000 + index}`)
    const beforeMs = Date.now()
    for (let at = 0; at < keys.length; at += 50) {
      await Promise.all(keys.slice(at, at + 50).map((key) => store().put(key, new Uint8Array([1]), 'image/png')))
    }
    const first = await store().list(`${sha.slice(0, 2)}/${sha}`)
    expect(first.objects.map(({ key }) => key)).toEqual(keys.slice(0, 1_000))
    expect(first.next).toBe(keys[999] as string)
    const second = await store().list(`${sha.slice(0, 2)}/${sha}`, first.next)
    expect(second).toMatchObject({ objects: keys.slice(1_000).map((key) => ({ key, length: 1 })), next: undefined })
    for (const { modifiedAtMs } of first.objects) {
      expect(Math.abs(modifiedAtMs - beforeMs)).toBeLessThan(120_000)
    }
    expect((await store().list(sha.slice(0, 1), `${objectKey(sha)}.v2001`)).objects[0]?.key).toBe(keys[1_002] as string)
    await Promise.all(keys.map((key) => store().delete(key)))
  }, 60_000)

  test('a probe of a store that works succeeds, also when it is repeated', async () => {
    await store().probe()
    await store().probe()
  })

  test('a malformed key is refused by every operation before any I/O', async () => {
    for (const key of notKeys) {
      const calls = [
        () => store().put(key, new Uint8Array(), 'image/png'),
        () => store().open(key),
        () => store().head(key),
        () => store().delete(key),
      ]
      for (const call of calls) expect(await reasonOf(Promise.try<unknown, []>(call))).toBeInstanceOf(ObjectKeyRefused)
    }
  })
}
