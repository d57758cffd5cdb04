import { randomBytes } from 'node:crypto'
import { type FileHandle, open, readdir, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileSlice } from './file-slice.ts'
import { closeObject, type OpenObject } from './objects.ts'

const prefix = 'velro-download-'
/** How long a file is kept for other responses with the same bytes, counted from the last one. */
const defaultKeepMs = 30_000
/** Most bytes in files at once. */
const defaultMaxBytes = 2_048 * 1_048_576
/** Limit for reading one object from its store: 64 MiB in a minute take 9 Mbit/s. */
const defaultReadMs = 60_000
/** Age at which a file was certainly left behind by a killed process. */
const maxLeftoverAgeMs = 3_600_000

/** `ready` is undefined if the file could not be created, and then nothing of its stream was read. */
type SpooledFile = {
  readonly ready: Promise<Blob | undefined>
  keepUntilMs: number
  readonly path: string
  readonly bytes: number
}

const writeStream = async (
  file: FileHandle,
  stream: ReadableStream<Uint8Array>,
  length: number,
  signal: AbortSignal,
) => {
  try {
    let at = 0
    const write = new WritableStream<Uint8Array>({
      write: async (piece) => {
        for (let done = 0; done < piece.length; ) {
          done += (await file.write(piece, done, piece.length - done, at + done)).bytesWritten
        }
        at += piece.length
      },
    })
    await stream.pipeTo(write, { signal })
    if (at !== length) throw new Error(`The object store sent ${at} bytes of ${length}`)
  } finally {
    await file.close()
  }
}

/**
 * Gives response bodies a length that reaches the client. Bun sends a stream in chunks without a Content-Length; behind a
 * proxy that speaks HTTP/1.0 to the service a download that breaks off then looks complete. So on Bun a stream is first
 * written to a temporary file, which responses with the same bytes share.
 *
 * Promise: at most `maxBytes` in files at once. A file is deleted `keepMs` after its last use; files of a killed process are
 * deleted by the next one after an hour.
 * How it degrades: beyond `maxBytes`, and where no file can be created, the stream is sent in chunks.
 */
export const createSpool = ({
  directory = tmpdir(),
  keepMs = defaultKeepMs,
  maxBytes = defaultMaxBytes,
  readMs = defaultReadMs,
}: {
  readonly directory?: string
  readonly keepMs?: number
  readonly maxBytes?: number
  readonly readMs?: number
} = {}) => {
  const files = new Map<string, SpooledFile>()
  let spooledBytes = 0
  let hasRemovedLeftovers = false

  const removeLeftovers = async () => {
    for (const name of await readdir(directory)) {
      if (!name.startsWith(prefix)) continue
      const path = join(directory, name)
      const found = await stat(path).catch(() => undefined)
      if (found && Date.now() - found.mtimeMs > maxLeftoverAgeMs) await rm(path, { force: true })
    }
  }

  const remove = async (name: string, { path, bytes }: SpooledFile) => {
    files.delete(name)
    spooledBytes -= bytes
    await rm(path, { force: true }).catch(() => {})
  }

  /** Removes the file when nothing has used it for `keepMs`. */
  const expire = (name: string, file: SpooledFile) => {
    const leftMs = file.keepUntilMs - performance.now()
    if (leftMs <= 0) return void remove(name, file)
    const timer = setTimeout(() => expire(name, file), leftMs)
    timer.unref()
  }

  const spool = (name: string, stream: ReadableStream<Uint8Array>, length: number): SpooledFile => {
    const path = join(directory, prefix + randomBytes(16).toString('hex'))
    const write = async () => {
      if (!hasRemovedLeftovers) {
        hasRemovedLeftovers = true
        // Only tidies up: a failure must not fail a download.
        await removeLeftovers().catch(() => {})
      }
      const file = await open(path, 'wx', 0o600).catch(() => undefined)
      if (file === undefined) return undefined
      await writeStream(file, stream, length, AbortSignal.timeout(readMs))
      return fileSlice(path, 0, length)
    }
    const file = { ready: write(), keepUntilMs: 0, path, bytes: length }
    files.set(name, file)
    spooledBytes += length
    file.ready.then(
      (slice) => {
        if (slice === undefined) return remove(name, file)
        file.keepUntilMs = performance.now() + keepMs
        expire(name, file)
      },
      () => remove(name, file),
    )
    return file
  }

  return {
    /** The body of an open object, for one response. `name` is the same only for the same bytes. */
    toBody: async (name: string, opened: OpenObject): Promise<Blob | ReadableStream<Uint8Array>> => {
      const { body, length } = opened
      if (body instanceof Blob || typeof Bun === 'undefined') return body
      const known = files.get(name)
      if (known === undefined && spooledBytes + length > maxBytes) return body
      const file = known ?? spool(name, body, length)
      const slice = await (known === undefined ? file.ready : file.ready.catch(() => undefined))
      if (slice === undefined) return body
      if (known !== undefined) closeObject(opened)
      file.keepUntilMs = performance.now() + keepMs
      return slice
    },
  }
}

export type Spool = ReturnType<typeof createSpool>
