import { Buffer } from 'node:buffer'
import { S3mini, S3ServiceError } from 's3mini'
import { RangeNotSatisfiable, resolveRange } from '../kit/byte-range.ts'
import {
  isObjectKey,
  listPageSize,
  maxObjectBytes,
  type ObjectBody,
  ObjectContentRefused,
  type ObjectStore,
  piecesOf,
  readObjectKey,
} from './objects.ts'

export type S3Options = {
  /** Origin of the service, such as `https://s3.eu-central-1.amazonaws.com`. */
  readonly endpoint: string
  readonly region: string
  readonly bucket: string
  readonly accessKeyId: string
  readonly secretAccessKey: string
  /** How long one request may take to be answered; a body has a second more for each MiB to be sent in. Default: 15 s. */
  readonly timeoutMs?: number
}

const mebibyte = 1_048_576

const statusOf = (error: unknown): number | undefined => {
  if (error instanceof S3ServiceError) return error.status
  return error instanceof Error && error.cause !== undefined ? statusOf(error.cause) : undefined
}

/** What services call it when the bytes are not those that were announced. */
const mismatches = ['BadDigest', 'XAmzContentChecksumMismatch', 'InvalidDigest']
const isMismatch = (error: unknown) => error instanceof S3ServiceError && mismatches.includes(error.serviceCode ?? '')

const on = async <T>(status: number, promise: Promise<T>): Promise<T | undefined> => {
  try {
    return await promise
  } catch (error) {
    if (statusOf(error) === status) return undefined
    throw error
  }
}

/**
 * The deadline is for the answer to begin: a stream that somebody reads slowly is not cut off. Being a function of our
 * own it also keeps the client from taking another path under Bun than it takes under Deno.
 */
const fetchWithin = (timeoutMs: number): typeof fetch => {
  const send = async (input: RequestInfo | URL, init?: RequestInit) => {
    const late = new AbortController()
    const { byteLength = 0 } = (init?.body ?? {}) as { byteLength?: number }
    const limitMs = timeoutMs + Math.floor(byteLength / mebibyte) * 1_000
    const timer = setTimeout(() => late.abort(new Error(`S3 did not answer within ${limitMs} ms`)), limitMs)
    try {
      return await fetch(input, { ...init, signal: late.signal })
    } finally {
      clearTimeout(timer)
    }
  }
  return send as typeof fetch
}

/** S3 wants to know the length before the first byte, so that a stream is gathered before it is sent. */
const gather = async (body: ObjectBody): Promise<Uint8Array> => {
  if (body instanceof Uint8Array && body.byteLength <= maxObjectBytes) return body
  const pieces: Uint8Array[] = []
  for await (const piece of piecesOf(body)) pieces.push(piece)
  return Buffer.concat(pieces)
}

/**
 * Objects in a bucket of any S3-compatible service, addressed by path. The service compares what it got with the SHA-256
 * that the key names, and keeps nothing of what differs.
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

  const lengthOf = (key: string) => on(404, client.getContentLength(readObjectKey(key).key))

  return {
    put: async (key, body, contentType) => {
      const { sha256, variant } = readObjectKey(key)
      const checksum = { 'x-amz-checksum-sha256': Buffer.from(sha256, 'hex').toString('base64') }
      const headers = variant === undefined ? checksum : undefined
      try {
        const answer = await client.putObject(key, await gather(body), contentType, undefined, headers)
        await answer.body?.cancel()
      } catch (error) {
        if (isMismatch(error)) throw new ObjectContentRefused('The bytes are not those that the key names')
        throw error
      }
    },
    open: async (key, range) => {
      readObjectKey(key)
      // What the end is counted from has to be asked for; an object never changes its length.
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
        const stream = answer.body ?? new Blob([]).stream()
        return { stream: stream as ReadableStream<Uint8Array>, first, length, total: whole }
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
      await on(404, client.deleteObject(readObjectKey(key).key))
    },
    list: async (prefix = '', after = '') => {
      const startAfter = after === '' ? {} : { 'start-after': after }
      const page = await client.listObjectsPaged('/', prefix, listPageSize, undefined, startAfter)
      if (page === null || page === undefined) throw new Error(`There is no bucket ${bucket}`)
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
  }
}
