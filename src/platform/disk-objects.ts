import { createHash, randomBytes } from 'node:crypto'
import { type FileHandle, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { resolveRange } from '../kit/byte-range.ts'
import { fileSlice } from './file-slice.ts'
import {
  isObjectKey,
  type ListedObject,
  listPageSize,
  ObjectContentRefused,
  type ObjectStore,
  parseObjectKey,
  piecesOf,
} from './objects.ts'

const readChunkBytes = 65_536
/** Age at which a draft is certainly left over from a killed process and not still being written. */
const maxDraftAgeMs = 86_400_000

const unlessMissing = (error: NodeJS.ErrnoException): undefined => {
  if (error.code !== 'ENOENT') throw error
}

/** Streams a part of an open file; closes it at the end, on cancel, and when reading fails. */
const streamOf = (file: FileHandle, first: number, length: number): ReadableStream<Uint8Array> => {
  let at = first
  const end = first + length
  return new ReadableStream<Uint8Array>(
    {
      pull: async (controller) => {
        try {
          const piece = new Uint8Array(Math.min(readChunkBytes, end - at))
          const { bytesRead } = piece.length === 0 ? { bytesRead: 0 } : await file.read(piece, 0, piece.length, at)
          if (bytesRead === 0 && at < end) throw new Error('The object file was truncated while it was read')
          at += bytesRead
          if (bytesRead > 0) controller.enqueue(piece.subarray(0, bytesRead))
          if (at < end) return
          await file.close()
          controller.close()
        } catch (error) {
          await file.close().catch(() => {})
          throw error
        }
      },
      cancel: () => file.close(),
    },
    { highWaterMark: 0 },
  )
}

const writeAll = async (file: FileHandle, bytes: Uint8Array, at: number): Promise<number> => {
  let written = 0
  while (written < bytes.length) {
    written += (await file.write(bytes, written, bytes.length - written, at + written)).bytesWritten
  }
  return at + written
}

/** The names in a folder, sorted; empty when the folder does not exist. */
const namesIn = async (folder: string): Promise<string[]> => ((await readdir(folder).catch(unlessMissing)) ?? []).sort()

/**
 * Objects as files in 256 folders. A file is written as a draft on the same disk, synced and then renamed, so a crash leaves
 * a draft at most. The first write after a start removes drafts older than a day.
 */
export const createDiskObjects = ({ directory }: { directory: string }): ObjectStore => {
  const drafts = join(directory, 'drafts')
  const pathOf = (key: string) => join(directory, parseObjectKey(key).key)

  const removeOldDrafts = async () => {
    await mkdir(drafts, { recursive: true })
    for (const name of await namesIn(drafts)) {
      const path = join(drafts, name)
      const draft = await stat(path).catch(unlessMissing)
      if (draft && Date.now() - draft.mtimeMs > maxDraftAgeMs) await rm(path, { force: true })
    }
  }
  let prepared: Promise<void> | undefined
  const prepare = () => {
    prepared ??= removeOldDrafts().catch((error) => {
      prepared = undefined
      throw error
    })
    return prepared
  }

  const syncFolder = async (path: string) => {
    const folder = await open(path, 'r')
    try {
      await folder.sync()
    } finally {
      await folder.close()
    }
  }

  const findListed = async (key: string): Promise<ListedObject | undefined> => {
    const found = await stat(join(directory, key)).catch(unlessMissing)
    return found?.isFile() ? { key, length: found.size, modifiedAtMs: Math.floor(found.mtimeMs) } : undefined
  }

  return {
    put: async (key, body) => {
      const { sha256, variant } = parseObjectKey(key)
      const path = pathOf(key)
      await prepare()
      const draft = join(drafts, randomBytes(16).toString('hex'))
      const file = await open(draft, 'wx', 0o640)
      try {
        try {
          const hash = createHash('sha256')
          let at = 0
          for await (const piece of piecesOf(body)) {
            if (variant === undefined) hash.update(piece)
            at = await writeAll(file, piece, at)
          }
          if (variant === undefined && hash.digest('hex') !== sha256) {
            throw new ObjectContentRefused('The content does not match the SHA-256 in its key')
          }
          await file.sync()
        } finally {
          await file.close()
        }
        const folder = join(directory, sha256.slice(0, 2))
        await mkdir(folder, { recursive: true })
        await rename(draft, path)
        await syncFolder(folder)
      } catch (error) {
        await rm(draft, { force: true })
        throw error
      }
    },
    open: async (key, range) => {
      const file = await open(pathOf(key), 'r').catch(unlessMissing)
      if (file === undefined) return undefined
      try {
        const total = (await file.stat()).size
        const { first, length } = resolveRange(range, total)
        const slice = fileSlice(pathOf(key), first, length)
        if (slice !== undefined) await file.close()
        return { body: slice ?? streamOf(file, first, length), first, length, total }
      } catch (error) {
        await file.close()
        throw error
      }
    },
    head: async (key) => {
      const found = await findListed(parseObjectKey(key).key)
      return found && { length: found.length }
    },
    delete: async (key) => {
      await rm(pathOf(key), { force: true })
    },
    list: async (prefix = '', after = '') => {
      const objects: ListedObject[] = []
      const mayMatch = (name: string, start: string) => name.startsWith(start) || start.startsWith(name)
      for (const folder of await namesIn(directory)) {
        if (!/^[0-9a-f]{2}$/.test(folder) || folder < after.slice(0, 2) || !mayMatch(folder, prefix)) continue
        for (const name of await namesIn(join(directory, folder))) {
          const key = `${folder}/${name}`
          if (key <= after || !key.startsWith(prefix) || !isObjectKey(key)) continue
          if (objects.length === listPageSize) return { objects, next: objects.at(-1)?.key }
          const found = await findListed(key)
          if (found) objects.push(found)
        }
      }
      return { objects, next: undefined }
    },
    probe: async () => {
      await prepare()
      const draft = join(drafts, randomBytes(16).toString('hex'))
      const file = await open(draft, 'wx', 0o640)
      try {
        try {
          await writeAll(file, new Uint8Array(1), 0)
          // Some file systems report a full disk only here.
          await file.sync()
        } finally {
          await file.close()
        }
      } finally {
        await rm(draft, { force: true })
      }
    },
  }
}
