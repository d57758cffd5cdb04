import { maxSliceBytes } from '../kit/async.ts'
import type { ByteRange } from '../kit/byte-range.ts'

/** The content to put. */
export type ObjectBody = Uint8Array | ReadableStream<Uint8Array>

export type OpenObject = {
  /** A stream must be read to its end or cancelled. A blob is part of a file, read where it is used. */
  readonly body: ReadableStream<Uint8Array> | Blob
  /** Offset of the body in the object, length of the body, and size of the object, in bytes. */
  readonly first: number
  readonly length: number
  readonly total: number
}

export type ListedObject = { readonly key: string; readonly length: number; readonly modifiedAtMs: number }
export type ObjectPage = {
  readonly objects: readonly ListedObject[]
  /** The `after` of the next page; undefined on the last page. */
  readonly next: string | undefined
}

/**
 * Content-addressed storage for images and videos. The key of an object contains the SHA-256 of its content, so an object
 * never changes, can be cached forever, and is stored once however often it is uploaded.
 *
 * Promise: `put` is atomic: an object exists whole or not at all, even after a crash. `put` is idempotent: a second one changes
 * only the modification time. Under a key without a variant, content with another SHA-256 is refused. A malformed key throws
 * `ObjectKeyRefused` before any I/O. When the store fails or cannot be reached, the call throws.
 */
export type ObjectStore = {
  /** `contentType` is for other clients of the store. Velro reads the type from the database. */
  put(key: string, body: ObjectBody, contentType: string): Promise<void>
  /**
   * Undefined when the object does not exist. Throws `RangeNotSatisfiable`. If the object is deleted during the read, a body
   * from disk still completes; one from S3 may fail.
   */
  open(key: string, range?: ByteRange): Promise<OpenObject | undefined>
  head(key: string): Promise<{ readonly length: number } | undefined>
  /** Idempotent: succeeds also when the object does not exist. */
  delete(key: string): Promise<void>
  /** Lists up to 1,000 objects in key order: those whose key starts with `prefix` (of any length) and sorts after `after`. */
  list(prefix?: string, after?: string): Promise<ObjectPage>
  /** Rejects where `put` would: the store cannot be reached, written, or has no room. Leaves no object behind, or an empty one. */
  probe(): Promise<void>
}

/** Closes an object that will not be read. */
export const closeObject = ({ body }: OpenObject): void => {
  if (!(body instanceof Blob)) body.cancel().catch(() => {})
}

export const listPageSize = 1_000

/** Largest object: the limit of a video. A larger body is refused with `ObjectTooLarge`. */
export const maxObjectBytes = 64 * 1_048_576

export class ObjectKeyRefused extends TypeError {
  override readonly name = 'ObjectKeyRefused'
}

export class ObjectTooLarge extends Error {
  override readonly name = 'ObjectTooLarge'
}

/** Raised when content does not have the SHA-256 in its key. */
export class ObjectContentRefused extends Error {
  override readonly name = 'ObjectContentRefused'
}

const keyPattern = /^([0-9a-f]{2})\/(\1[0-9a-f]{62})(?:\.([a-z0-9]{1,16}))?$/

/** Key format: `<first 2 hex digits of the SHA-256>/<SHA-256 in hex>[.<variant>]`. No other text ever becomes a path or a URL. */
export const isObjectKey = (key: string): boolean => keyPattern.test(key)

/** Builds a key; throws `ObjectKeyRefused` when a part is malformed. */
export const objectKey = (sha256: string, variant?: string): string => {
  const key = `${sha256.slice(0, 2)}/${sha256}${variant === undefined ? '' : `.${variant}`}`
  return parseObjectKey(key).key
}

/** Splits a key into its parts; throws `ObjectKeyRefused` when it is malformed. */
export const parseObjectKey = (key: string): { key: string; sha256: string; variant: string | undefined } => {
  const [, , sha256, variant] = keyPattern.exec(key) ?? []
  if (sha256 === undefined) throw new ObjectKeyRefused('The object key is malformed')
  return { key, sha256, variant }
}

/** Yields a body in slices small enough not to block the event loop. Throws `ObjectTooLarge`. */
export async function* piecesOf(body: ObjectBody): AsyncGenerator<Uint8Array> {
  let bytes = 0
  const counted = (piece: Uint8Array) => {
    bytes += piece.byteLength
    if (bytes > maxObjectBytes) throw new ObjectTooLarge(`The object is larger than ${maxObjectBytes} bytes`)
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
    // Has no effect after the end; before it, cancels the source.
    await reader.cancel().catch(() => {})
  }
}
