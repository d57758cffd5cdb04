import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { randomBytes } from 'node:crypto'
import { mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { OpenObject } from '../../src/platform/objects.ts'
import { createSpool } from '../../src/platform/spool.ts'
import { until } from '../faults/support.ts'
import { reapFolder } from '../harness/reaper.ts'

let directory: string
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'velro-spool-'))
  reapFolder(directory)
})
afterAll(() => rm(directory, { recursive: true, force: true }))

const bytes = new Uint8Array(randomBytes(300_000))

/** A stream of the bytes as an object store opens it; `failAt` breaks it off. */
const opened = (failAt = Number.POSITIVE_INFINITY): OpenObject & { cancelled(): boolean; pulled(): boolean } => {
  let at = 0
  let cancelled = false
  const body = new ReadableStream<Uint8Array>(
    {
      pull: (controller) => {
        if (at >= failAt) return controller.error(new Error('the store went away'))
        if (at >= bytes.length) return controller.close()
        controller.enqueue(bytes.subarray(at, at + 65_536))
        at += 65_536
      },
      cancel: () => {
        cancelled = true
      },
    },
    { highWaterMark: 0 },
  )
  return { body, first: 0, length: bytes.length, total: bytes.length, cancelled: () => cancelled, pulled: () => at > 0 }
}
const read = async (body: Blob | ReadableStream) => new Uint8Array(await new Response(body).arrayBuffer())
const files = async () => (await readdir(directory)).filter((name) => name.startsWith('velro-download-'))

describe('a spool', () => {
  test('gives a stream a length, shares the file among responses, and deletes it after its last use', async () => {
    const spool = createSpool({ directory, keepMs: 50 })
    const [first, second] = [opened(), opened()]
    const bodies = await Promise.all([spool.toBody('a', first), spool.toBody('a', second)])
    for (const body of bodies) {
      expect((body as Blob).size).toBe(bytes.length)
      expect(await read(body)).toEqual(bytes)
    }
    expect([first.cancelled(), second.cancelled(), second.pulled()]).toEqual([false, true, false])
    await until(async () => (await files()).length === 0, 'the file is deleted')
    expect(await read(await spool.toBody('a', opened()))).toEqual(bytes)
  })

  test('leaves a part of a file as it is', async () => {
    const blob = new Blob([bytes])
    expect(await createSpool({ directory }).toBody('b', { ...opened(), body: blob })).toBe(blob)
  })

  test('passes the stream on when its files are full', async () => {
    const spool = createSpool({ directory, maxBytes: 500_000, keepMs: 50 })
    await spool.toBody('a', opened())
    const body = await spool.toBody('b', opened())
    expect(body).toBeInstanceOf(ReadableStream)
    expect(await read(body)).toEqual(bytes)
    await until(async () => (await files()).length === 0, 'the file is deleted')
    expect(await spool.toBody('b', opened())).toBeInstanceOf(Blob)
  })

  test('fails with the stream, or with a stream of another length, and leaves no file', async () => {
    const spool = createSpool({ directory, keepMs: 50 })
    await expect(spool.toBody('c', opened(100_000))).rejects.toThrow('the store went away')
    await expect(spool.toBody('c', { ...opened(), length: 7 })).rejects.toThrow('300000 bytes of 7')
    await until(async () => (await files()).length === 0, 'the files are deleted')
    expect(await read(await spool.toBody('c', opened()))).toEqual(bytes)
  })

  test('sends the next response its own stream when the one before it fails', async () => {
    const spool = createSpool({ directory, keepMs: 50 })
    const [broken, other] = [opened(100_000), opened()]
    const [first, second] = await Promise.allSettled([spool.toBody('e', broken), spool.toBody('e', other)])
    expect(first.status).toBe('rejected')
    expect(await read((second as PromiseFulfilledResult<Blob | ReadableStream>).value)).toEqual(bytes)
  })

  test('passes the stream on where no file can be created', async () => {
    const spool = createSpool({ directory: join(directory, 'none') })
    const bodies = await Promise.all([spool.toBody('f', opened()), spool.toBody('f', opened())])
    for (const body of bodies) {
      expect(body).toBeInstanceOf(ReadableStream)
      expect(await read(body)).toEqual(bytes)
    }
  })

  test('deletes the files that a killed process left behind an hour ago', async () => {
    const [old, young] = ['velro-download-old', 'velro-download-young'].map((name) => join(directory, name))
    for (const path of [old, young]) await writeFile(path as string, 'x')
    const twoHoursAgo = new Date(Date.now() - 7_200_000)
    await utimes(old as string, twoHoursAgo, twoHoursAgo)
    await createSpool({ directory, keepMs: 50 }).toBody('d', opened())
    await until(async () => (await files()).join() === 'velro-download-young', 'the old file is deleted')
    await rm(young as string)
  })
})
