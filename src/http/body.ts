import { Fault } from '../fault.ts'
import { type Deadline, DeadlinePassed } from '../kit/deadline.ts'
import { InvalidJson, maxScanBytes, maxTextBytes, parseJson, parseLargeJson, parseSmallText } from '../kit/json.ts'
import type { MaybePromise } from '../kit/maybe-promise.ts'
import { createTurns } from '../kit/turns.ts'
import type { RequestContext } from './request-context.ts'

/** Limits of a JSON body, in bytes: of the routes that sign people in, of most routes, and of those that take many questions. */
export const bodyLimits = { auth: 8_192, usual: 65_536, large: 1_048_576 } as const

const tooLarge = (maxBytes: number) => new Fault('request.too_large', { extensions: { max_bytes: maxBytes } })

export const contentLengthOf = ({ headers }: Request): number | undefined => {
  const announced = headers.get('content-length')
  return announced === null ? undefined : Number(announced)
}

/** Refuses two Content-Length headers, equal or not, which arrive as one value with a comma (RFC 9112 §6.3). */
export const refuseAmbiguousLength = ({ contentLength }: RequestContext): void => {
  if (Number.isNaN(contentLength)) throw new Fault('request.malformed')
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
  /** Whether a small body is read as text, which costs less than bytes: see `parseSmallText`. */
  readonly storesNothing: boolean
}

/**
 * The bytes of a body without a Content-Length, counted while they are read. Throws `refused()` when there are more than
 * `maxBytes`.
 */
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
const readUnusual = (
  request: Request,
  type: string,
  announced: number | undefined,
  maxBytes: number,
): Promise<Uint8Array> | undefined => {
  if (announced === 0 || request.body === null) return undefined
  refuseEncodedBody(request)
  if (!isJson(type)) {
    if (announced !== undefined) throw unsupported()
    return readCounted(request, 0, unsupported)
  }
  if (announced === undefined) return readCounted(request, maxBytes, () => tooLarge(maxBytes))
  if (announced > maxBytes) throw tooLarge(maxBytes)
  return request.bytes()
}

const readBody = (
  request: Request,
  announced: number | undefined,
  { maxBytes, storesNothing }: JsonBody,
): Promise<Uint8Array | string> | undefined => {
  const type = request.headers.get('content-type') ?? ''
  const isUsual = type === jsonType && announced !== undefined && announced > 0 && announced <= maxBytes
  if (!isUsual) return readUnusual(request, type, announced, maxBytes)
  refuseEncodedBody(request)
  return storesNothing && announced <= maxTextBytes ? request.text() : request.bytes()
}

/** Shared by all requests of the process, as its event loop is. */
const turns = createTurns()

type JsonReader<T> = {
  /** Given the value; of undefined, when the body is missing. */
  readonly accept: (value: unknown) => T
  /** Given the fault of a body that is refused. */
  readonly refuse: (error: unknown) => MaybePromise<never>
}

const toFault = (error: unknown): unknown =>
  error instanceof InvalidJson
    ? new Fault('request.malformed', { problems: [{ in: 'body', pointer: '', detail: error.reason }] })
    : error

const parseLarge = async (bytes: Uint8Array, refusesUnstorable: boolean, deadline: Deadline): Promise<unknown> => {
  const nextTurn = async () => {
    await turns.next()
    deadline.check()
  }
  return parseLargeJson(bytes, { refusesUnstorable, nextTurn })
}

/**
 * What `accept` makes of the JSON value of a request's body. Refuses another media type or a content coding with 415, more than
 * `maxBytes` with 413, before the body is read where it has a Content-Length, and with 400 text that is not JSON or holds too much
 * (`jsonLimits`). A slow client has the deadline of the request, not more.
 */
export const readJson = <T>(
  request: Request,
  context: RequestContext,
  limits: JsonBody,
  { accept, refuse }: JsonReader<T>,
): MaybePromise<T> => {
  const { deadline, contentLength } = context
  const { acceptsUnstorable, storesNothing } = limits
  // Small bodies of frequent requests are not timed, for speed.
  const leftMs = storesNothing ? 0 : deadline.remainingMs()
  const noteWait = () => {
    if (!storesNothing) context.bodyMs = leftMs - deadline.remainingMs()
  }
  const parse = (bytes: Uint8Array | string): MaybePromise<T> => {
    noteWait()
    if (typeof bytes !== 'string' && bytes.length > maxScanBytes) {
      return parseLarge(bytes, !acceptsUnstorable, deadline)
        .then(accept)
        .catch((error) => refuse(toFault(error)))
    }
    try {
      if (bytes.length === 0) return accept(undefined)
      if (typeof bytes === 'string') return accept(parseSmallText(bytes, contentLength, !acceptsUnstorable))
      return accept(parseJson(bytes, !acceptsUnstorable))
    } catch (error) {
      return refuse(toFault(error))
    }
  }
  // The client broke off, unless it was refused or too slow.
  const refuseUnread = (error: unknown) => {
    noteWait()
    return refuse(
      error instanceof Fault || error instanceof DeadlinePassed
        ? error
        : new Fault('request.malformed', { cause: error }),
    )
  }
  try {
    const read = readBody(request, contentLength, limits)
    return read === undefined ? accept(undefined) : deadline.settle(read, parse, refuseUnread)
  } catch (error) {
    return refuse(error)
  }
}
