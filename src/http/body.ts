import { Fault } from '../fault.ts'
import { type Deadline, DeadlinePassed } from '../kit/deadline.ts'
import { InvalidJson, parseJson } from '../kit/json.ts'
import { type MaybePromise, mapMaybePromise } from '../kit/maybe-promise.ts'
import { createTurns } from '../kit/turns.ts'

/** Limits of a JSON body, in bytes: of the routes that sign people in, of most routes, and of those that take many questions. */
export const bodyLimits = { auth: 8_192, usual: 65_536, large: 1_048_576 } as const

const tooLarge = (maxBytes: number) => new Fault('request.too_large', { extensions: { max_bytes: maxBytes } })

/** Refuses two Content-Length headers, equal or not, which arrive as one value with a comma (RFC 9112 §6.3). */
export const refuseAmbiguousLength = ({ headers }: Request): void => {
  const announced = headers.get('content-length')
  if (announced !== null && Number.isNaN(Number(announced))) throw new Fault('request.malformed')
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

export type JsonBody = {
  readonly maxBytes: number
  /** Whether texts that cannot be stored are accepted, because the route stores nothing. */
  readonly acceptsUnstorable: boolean
}

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

const unsupported = () => new Fault('request.media_type_unsupported')

/**
 * The bytes of a body that may have another media type, no Content-Length, or be missing: not every runtime can distinguish an
 * empty body from a missing one before it is read. Only here is `request.body` used, because it turns the body into a stream.
 */
const readUnusual = (request: Request, type: string, maxBytes: number): Promise<Uint8Array> | undefined => {
  const announced = request.headers.get('content-length')
  if (announced === '0' || request.body === null) return undefined
  refuseEncodedBody(request)
  if (!isJson(type)) {
    if (announced !== null) throw unsupported()
    return readCounted(request, 0, unsupported)
  }
  if (announced === null) return readCounted(request, maxBytes, () => tooLarge(maxBytes))
  if (Number(announced) > maxBytes) throw tooLarge(maxBytes)
  return request.bytes()
}

const readJsonBytes = (request: Request, maxBytes: number): Promise<Uint8Array> | undefined => {
  const { headers } = request
  const type = headers.get('content-type') ?? ''
  const length = Number(headers.get('content-length'))
  if (type !== jsonType || !(length > 0 && length <= maxBytes)) return readUnusual(request, type, maxBytes)
  refuseEncodedBody(request)
  return request.bytes()
}

/** Shared by all requests of the process, as its event loop is. */
const turns = createTurns()

/**
 * What `accept` makes of the JSON value of a request's body; of undefined, when the body is missing. Throws 415 for another
 * media type or a content coding, 413 over `maxBytes`, before the body is read where it has a Content-Length, and 400 for text
 * that is not JSON or holds too much (`jsonLimits`). A slow client has the deadline of the request, not more.
 */
export const readJson = <T>(
  request: Request,
  deadline: Deadline,
  { maxBytes, acceptsUnstorable }: JsonBody,
  accept: (value: unknown) => T,
): MaybePromise<T> => {
  const read = readJsonBytes(request, maxBytes)
  if (read === undefined) return accept(undefined)
  const nextTurn = async () => {
    await turns.next()
    deadline.check()
  }
  const parse = (bytes: Uint8Array): MaybePromise<T> => {
    if (bytes.length === 0) return accept(undefined)
    try {
      const parsed = parseJson(bytes, { refusesUnstorable: !acceptsUnstorable, nextTurn })
      return mapMaybePromise(parsed instanceof Promise ? parsed.catch(refuse) : parsed, accept)
    } catch (error) {
      return refuse(error)
    }
  }
  return deadline.run(read).then(parse, refuseUnread)
}

/** The client broke off, unless it was refused or too slow. */
const refuseUnread = (error: unknown): never => {
  if (error instanceof Fault || error instanceof DeadlinePassed) throw error
  throw new Fault('request.malformed', { cause: error })
}

const refuse = (error: unknown): never => {
  if (!(error instanceof InvalidJson)) throw error
  throw new Fault('request.malformed', { problems: [{ in: 'body', pointer: '', detail: error.reason }] })
}
