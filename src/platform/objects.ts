import { maxSliceBytes } from '../kit/async.ts'
import type { ByteRange } from '../kit/byte-range.ts'

/** What a store is given to keep. */
export type ObjectBody = Uint8Array | ReadableStream<Uint8Array>

export type OpenObject = {
  readonly stream: ReadableStream<Uint8Array>
  /** Where in the object the stream begins, how many bytes it has, and how many the object has. */
  readonly first: number
  readonly length: number
  readonly total: number
}

export type ListedObject = { readonly key: string; readonly length: number; readonly modifiedAtMs: number }
export type ObjectPage = {
  readonly objects: readonly ListedObject[]
  /** What to give as `after` for the next page; undefined with the last. */
  readonly next: string | undefined
}

/**
 * Where pictures and films are kept, by what they are: the name of an object is the SHA-256 of its content, so that it never
 * changes, may be cached for ever and is kept once however often it comes.
 *
 * Promise: an object is there whole or not at all, whatever happens while it is written; writing it again changes
 * nothing but when it was written; what is put under a key without a variant has that SHA-256 or is refused. A key
 * that is no key (`isObjectKey`) is an `ObjectKeyRefused` before anything is touched. Where the store cannot be reached,
 * or fails, each call throws.
 */
export type ObjectStore = {
  /** `contentType` is for those who reach the store past us; we go by what the database says. */
  put(key: string, body: ObjectBody, contentType: string): Promise<void>
  /**
   * Undefined where there is nothing. Throws `RangeNotSatisfiable`. The stream must be read to its end or cancelled.
   * Where the object is deleted meanwhile the stream goes on to its end on disk, and may break off with S3.
   */
  open(key: string, range?: ByteRange): Promise<OpenObject | undefined>
  head(key: string): Promise<{ readonly length: number } | undefined>
  /** Gone afterwards, also where there was nothing. */
  delete(key: string): Promise<void>
  /** Up to 1,000 objects in the order of their keys: those that begin with `prefix` (any part of a key) and come after `after`. */
  list(prefix?: string, after?: string): Promise<ObjectPage>
}

export const listPageSize = 1_000

/** Larger than any of ours; what a stream has beyond it is refused by `ObjectTooLarge`. */
export const maxObjectBytes = 64 * 1_048_576

export class ObjectKeyRefused extends TypeError {
  override readonly name = 'ObjectKeyRefused'
}

export class ObjectTooLarge extends Error {
  override readonly name = 'ObjectTooLarge'
}

/** Raised when what was put is not what its key says. */
export class ObjectContentRefused extends Error {
  override readonly name = 'ObjectContentRefused'
}

const keyForm = /^([0-9a-f]{2})\/(\1[0-9a-f]{62})(?:\.([a-z0-9]{1,16}))?$/

/** `<2 hex>/<sha256 hex>[.<variant>]`, the two the first of the sixty-four. Nothing else is ever a path or a URL of ours. */
export const isObjectKey = (key: string): boolean => keyForm.test(key)

/** Throws `ObjectKeyRefused` for what would not be a key. */
export const objectKey = (sha256: string, variant?: string): string => {
  const key = `${sha256.slice(0, 2)}/${sha256}${variant === undefined ? '' : `.${variant}`}`
  return readObjectKey(key).key
}

/** The key itself and its parts; throws `ObjectKeyRefused`. */
export const readObjectKey = (key: string): { key: string; sha256: string; variant: string | undefined } => {
  const [, , sha256, variant] = keyForm.exec(key) ?? []
  if (sha256 === undefined) throw new ObjectKeyRefused('Not the key of an object')
  return { key, sha256, variant }
}

/** A body piece by piece, none so large that handling it would hold up everybody else. Throws `ObjectTooLarge`. */
export async function* piecesOf(body: ObjectBody): AsyncGenerator<Uint8Array> {
  let bytes = 0
  const counted = (piece: Uint8Array) => {
    bytes += piece.byteLength
    if (bytes > maxObjectBytes) throw new ObjectTooLarge(`More than ${maxObjectBytes} bytes`)
    return piece
  }
  if (body instanceof Uint8Array) {
    for (let at = 0; at < body.byteLength; at += maxSliceBytes) yield counted(body.subarray(at, at + maxSliceBytes))
    return
  }
  const reader = body.getReader()
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return
      yield counted(value)
    }
  } finally {
    // After the end this does nothing; before it the sender is told to stop.
    await reader.cancel().catch(() => {})
  }
}
