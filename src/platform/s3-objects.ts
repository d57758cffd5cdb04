import { Buffer } from 'node:buffer'
import { createHash } from 'node:crypto'
import { S3mini, S3ServiceError } from 's3mini'
import { RangeNotSatisfiable, resolveRange } from '../kit/byte-range.ts'
import {
  isObjectKey,
  listPageSize,
  maxObjectBytes,
  type ObjectBody,
  ObjectContentRefused,
  type ObjectStore,
  type OpenObject,
  objectKey,
  parseObjectKey,
  piecesOf,
} from './objects.ts'

export type S3Options = {
  /** Origin of the service, such as `https://s3.eu-central-1.amazonaws.com`. */
  readonly endpoint: string
  readonly region: string
  readonly bucket: string
  readonly accessKeyId: string
  readonly secretAccessKey: string
  /** Limit for one request until its response starts; a body adds one second for each MiB. Default: 15 s. */
  readonly timeoutMs?: number
}

const mebibyte = 1_048_576
const emptySha256 = createHash('sha256').digest('hex')

const statusOf = (error: unknown): number | undefined => {
  if (error instanceof S3ServiceError) return error.status
  return error instanceof Error && error.cause !== undefined ? statusOf(error.cause) : undefined
}

/** Error codes of S3 services for a body that does not match its announced checksum. */
const mismatches = ['BadDigest', 'XAmzContentChecksumMismatch', 'InvalidDigest']
const isMismatch = (error: unknown) => error instanceof S3ServiceError && mismatches.includes(error.serviceCode ?? '')

const undefinedOn = async <T>(status: number, promise: Promise<T>): Promise<T | undefined> => {
  try {
    return await promise
  } catch (error) {
    if (statusOf(error) === status) return undefined
    throw error
  }
}

/**
 * A fetch with a time limit until the response starts; a response that is read slowly is not cut off. Passing a custom fetch
 * also makes the client take the same code path on Bun and on Deno.
 */
const fetchWithin = (timeoutMs: number): typeof fetch => {
  const send = async (input: RequestInfo | URL, init?: RequestInit) => {
    const timeout = new AbortController()
    const { byteLength = 0 } = (init?.body ?? {}) as { byteLength?: number }
    const limitMs = timeoutMs + Math.floor(byteLength / mebibyte) * 1_000
    const timer = setTimeout(() => timeout.abort(new Error(`The S3 request timed out after ${limitMs} ms`)), limitMs)
    try {
      return await fetch(input, { ...init, signal: timeout.signal })
    } finally {
      clearTimeout(timer)
    }
  }
  return send as typeof fetch
}

/**
 * S3 requires the length before the first byte, so a stream is buffered before it is sent. The fetch of Deno takes no bytes in
 * shared memory, in which uploads are, so those are copied.
 */
const toBuffered = async (body: ObjectBody): Promise<Uint8Array> => {
  if (body instanceof Uint8Array && body.byteLength <= maxObjectBytes) {
    return body.buffer instanceof SharedArrayBuffer ? body.slice() : body
  }
  const pieces: Uint8Array[] = []
  for await (const piece of piecesOf(body)) pieces.push(piece)
  return Buffer.concat(pieces)
}

/**
 * Objects in a bucket of any S3-compatible service, with path-style addresses. The service verifies the SHA-256 in the key and
 * stores nothing when the content differs.
 */
export const createS3Objects = (options: S3Options): ObjectStore => {
  const { endpoint, region, bucket, accessKeyId, secretAccessKey, timeoutMs = 15_000 } = options
  const client = new S3mini({
    accessKeyId,
    secretAccessKey,
    region,
    endpoint: `${endpoint.replace(/\/+$/, '')}/${bucket}`,
    fetch: fetchWithin(timeoutMs),
  })

  const lengthOf = (key: string) => undefinedOn(404, client.getContentLength(parseObjectKey(key).key))

  const put: ObjectStore['put'] = async (key, body, contentType) => {
    const { sha256, variant } = parseObjectKey(key)
    const checksum = { 'x-amz-checksum-sha256': Buffer.from(sha256, 'hex').toString('base64') }
    const headers = variant === undefined ? checksum : undefined
    try {
      const answer = await client.putObject(key, await toBuffered(body), contentType, undefined, headers)
      await answer.body?.cancel()
    } catch (error) {
      if (isMismatch(error)) throw new ObjectContentRefused('The content does not match the SHA-256 in its key')
      throw error
    }
  }

  return {
    put,
    open: async (key, range) => {
      parseObjectKey(key)
      // A suffix range needs the object's size first. An object never changes, so the size stays correct.
      const total = range && 'suffix' in range ? await lengthOf(key) : undefined
      if (range && 'suffix' in range && total === undefined) return undefined
      const place = total === undefined ? undefined : resolveRange(range, total)
      const first = place?.first ?? (range && 'first' in range ? range.first : 0)
      const last = place ? place.first + place.length - 1 : range && 'first' in range ? range.last : undefined
      try {
        const answer = await client.getObjectRaw(
          key,
          range === undefined,
          first,
          last === undefined ? undefined : last + 1,
        )
        const length = Number(answer.headers.get('content-length'))
        const whole = Number(/\/(\d+)$/.exec(answer.headers.get('content-range') ?? '')?.[1] ?? length)
        const body = answer.body ?? new Blob([])
        return { body: body as OpenObject['body'], first, length, total: whole }
      } catch (error) {
        if (statusOf(error) === 404) return undefined
        if (statusOf(error) === 416) throw new RangeNotSatisfiable((await lengthOf(key)) ?? 0)
        throw error
      }
    },
    head: async (key) => {
      const length = await lengthOf(key)
      return length === undefined ? undefined : { length }
    },
    delete: async (key) => {
      await undefinedOn(404, client.deleteObject(parseObjectKey(key).key))
    },
    list: async (prefix = '', after = '') => {
      const startAfter = after === '' ? {} : { 'start-after': after }
      const page = await client.listObjectsPaged('/', prefix, listPageSize, undefined, startAfter)
      if (page === null || page === undefined) throw new Error(`The bucket ${bucket} does not exist`)
      const all = page.objects ?? []
      const objects = all
        .filter(({ Key }) => isObjectKey(Key))
        .map(({ Key, Size, LastModified }) => ({
          key: Key,
          length: Number(Size),
          modifiedAtMs: new Date(LastModified).getTime(),
        }))
      return { objects, next: page.nextContinuationToken === undefined ? undefined : all.at(-1)?.Key }
    },
    probe: async () => {
      if (await client.bucketExists()) return
      // Credentials without the right to list the bucket are refused there, and may still store. The error says which it is.
      await put(objectKey(emptySha256), new Uint8Array(), 'application/octet-stream')
    },
  }
}
