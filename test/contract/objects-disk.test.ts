import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, readdir, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createDiskObjects } from '../../src/platform/disk-objects.ts'
import { type ObjectStore, objectKey } from '../../src/platform/objects.ts'
import { reapFolder } from '../harness/reaper.ts'
import { holdsObjects } from './objects.ts'

let directory: string
let store: ObjectStore

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'velro-objects-'))
  reapFolder(directory)
  store = createDiskObjects({ directory: join(directory, 'media') })
})
afterAll(() => rm(directory, { recursive: true, force: true }))

describe('objects on disk', () => {
  holdsObjects(() => store)

  test('a write leaves no draft, and the first write after a start removes only drafts older than a day', async () => {
    const media = join(directory, 'other')
    await mkdir(join(media, 'drafts'), { recursive: true })
    for (const name of ['old', 'young']) await writeFile(join(media, 'drafts', name), 'x')
    const twoDaysAgo = new Date(Date.now() - 2 * 86_400_000)
    await utimes(join(media, 'drafts', 'old'), twoDaysAgo, twoDaysAgo)
    const other = createDiskObjects({ directory: media })
    const bytes = new TextEncoder().encode('a picture')
    const key = objectKey(createHash('sha256').update(bytes).digest('hex'))
    await other.put(key, bytes, 'image/png')
    expect(await readdir(join(media, 'drafts'))).toEqual(['young'])
    expect((await stat(join(media, key))).mode & 0o007).toBe(0)
    expect((await other.list()).objects.map((object) => object.key)).toEqual([key])
    expect(await readdir(join(directory, 'media', 'drafts'))).toEqual([])
  })

  test('a probe leaves no file, and fails where a put would', async () => {
    const media = join(directory, 'probed')
    const other = createDiskObjects({ directory: media })
    await other.probe()
    expect(await readdir(join(media, 'drafts'))).toEqual([])
    await rm(media, { recursive: true })
    await expect(other.probe()).rejects.toThrow('ENOENT')
    await mkdir(media)
    await writeFile(join(media, 'drafts'), 'not a folder')
    await expect(createDiskObjects({ directory: media }).probe()).rejects.toThrow()
  })

  test('files and folders that are not objects are not listed', async () => {
    const media = join(directory, 'foreign')
    await mkdir(join(media, 'aa', `${'a'.repeat(64)}`), { recursive: true })
    await writeFile(join(media, 'aa', 'notes.txt'), 'x')
    expect(await createDiskObjects({ directory: media }).list()).toEqual({ objects: [], next: undefined })
    expect(await createDiskObjects({ directory: join(directory, 'none') }).list()).toEqual({
      objects: [],
      next: undefined,
    })
  })
})
