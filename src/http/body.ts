import { Fault } from '../fault.ts'
import type { Deadline } from '../kit/deadline.ts'
import { InvalidJson, parseJson } from '../kit/json.ts'

/** Limit of a JSON body: 1 MiB. */
export const maxBodyBytes = 1_048_576

const tooLarge = () => new Fault('request.too_large', { extensions: { max_bytes: maxBodyBytes } })

/**
 * Refuses a request by its Content-Length, before its body is read: 413, but not where `isOther` says that the route has
 * another limit; 400 for two of them, equal or not, which arrive as one value with a comma (RFC 9112 §6.3).
 */
export const refuseLargeBody = (request: Request, isOther: (request: Request) => boolean): void => {
  const announced = request.headers.get('content-length')
  if (announced === null) return
  const length = Number(announced)
  if (length <= maxBodyBytes) return
  if (Number.isNaN(length)) throw new Fault('request.malformed')
  if (!isOther(request)) throw tooLarge()
}

/** Refuses a body in a content coding, such as gzip: it is not decoded here (RFC 9110 §15.5.16). */
export const refuseEncodedBody = ({ headers }: Request): void => {
  const encoding = headers.get('content-encoding')
  if (encoding === null || encoding.trim().toLowerCase() === 'identity') return
  throw new Fault('request.encoding_unsupported', { headers: { 'accept-encoding': 'identity' } })
}

export const joined = (chunks: readonly Uint8Array[], length: number): Uint8Array => {
  const bytes = new Uint8Array(length)
  let offset = 0
  for (const chunk of chunks) {
    bytes.set(chunk, offset)
    offset += chunk.length
  }
  return bytes
}

const jsonType = 'application/json'

/** The routes of AuthZEN store nothing of a body, and the standard allows any JSON string in the members they ignore. */
export const isAuthzenPath = (path: string): boolean => path.startsWith('/access/v1/')

/** The bytes of a body without a Content-Length, counted while they are read. Throws `refused()` when there are more than `maxBytes`. */
const readCounted = async (request: Request, maxBytes: number, refused: () => Fault): Promise<Uint8Array> => {
  const chunks: Uint8Array[] = []
  let length = 0
  for await (const chunk of request.body ?? []) {
    length += chunk.length
    if (length > maxBytes) throw refused()
    chunks.push(chunk)
  }
  return joined(chunks, length)
}

/** Compares without regard to case and parameters (RFC 9110 §8.3.1). */
const isJson = (type: string): boolean => type.split(';', 1)[0]?.trim().toLowerCase() === jsonType

/**
 * A body that may have another media type, no Content-Length, or be missing: not every runtime can distinguish an empty body
 * from a missing one before it is read. Only here is `request.body` used, because it turns the body into a stream.
 */
const readUnusual = (request: Request, type: string, deadline: Deadline): Promise<unknown> | undefined => {
  const announced = request.headers.get('content-length')
  if (announced === '0' || request.body === null) return undefined
  refuseEncodedBody(request)
  if (!isJson(type)) {
    if (announced !== null) throw new Fault('request.media_type_unsupported')
    return deadline
      .run(readCounted(request, 0, () => new Fault('request.media_type_unsupported')))
      .then(() => undefined)
  }
  const read = announced === null ? readCounted(request, maxBodyBytes, tooLarge) : request.bytes()
  return deadline.run(read).then((bytes) => (bytes.length === 0 ? undefined : parseBody(bytes, request)))
}

/**
 * The JSON value of a request's body; undefined when the body is missing. Throws 415 for another media type or a content
 * coding, 413 over 1 MiB and 400 for text that is not JSON. A slow client has the deadline of the request, not more.
 */
export const readJson = (request: Request, deadline: Deadline): Promise<unknown> | undefined => {
  const type = request.headers.get('content-type') ?? ''
  const isUsual = type === jsonType && Number(request.headers.get('content-length')) > 0
  if (!isUsual) return readUnusual(request, type, deadline)
  refuseEncodedBody(request)
  return deadline.run(request.bytes()).then((bytes) => parseBody(bytes, request))
}

const parseBody = (bytes: Uint8Array, request: Request): unknown => {
  try {
    return parseJson(bytes, () => !isAuthzenPath(URL.parse(request.url)?.pathname ?? ''))
  } catch (error) {
    if (error instanceof InvalidJson) throw new Fault('request.malformed', { cause: error })
    throw error
  }
}
