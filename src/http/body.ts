import { Fault } from '../fault.ts'
import type { Deadline } from '../kit/deadline.ts'
import { InvalidJson, parseJson } from '../kit/json.ts'

/** What a JSON body may have: 1 MiB. */
export const maxBodyBytes = 1_048_576

const tooLarge = () => new Fault('request.too_large', { extensions: { max_bytes: maxBodyBytes } })

/** Refuses by the announced length, before anything is read; but what `isOther` says goes to a route with a limit of its own. */
export const refuseLargeBody = (request: Request, isOther: (request: Request) => boolean): void => {
  const announced = request.headers.get('content-length')
  if (announced === null || Number(announced) <= maxBodyBytes || isOther(request)) return
  throw tooLarge()
}

/**
 * The bytes of a body, up to `maxBytes`; undefined when there are more, as announced or as counted while they come in:
 * then no more of them is read. Those whose length is announced are put where workers see them without another copy.
 * Faults: 400 for a body that breaks off. What it takes beyond the deadline is not waited for.
 */
export const readBytes = async (
  request: Request,
  { maxBytes, deadline }: { maxBytes: number; deadline: Deadline },
): Promise<Uint8Array | undefined> => {
  const told = Number(request.headers.get('content-length') ?? Number.NaN)
  const announced = Number.isSafeInteger(told) ? told : undefined
  if (announced !== undefined && announced > maxBytes) return undefined
  if (request.body === null) return new Uint8Array()
  const whole = announced === undefined ? undefined : new Uint8Array(new SharedArrayBuffer(announced))
  const chunks: Uint8Array[] = []
  let length = 0
  const reader = request.body.getReader()
  try {
    for (;;) {
      const { done, value } = await deadline.run(
        reader.read().catch((cause: unknown) => {
          throw new Fault('request.malformed', { cause })
        }),
      )
      if (done) break
      length += value.length
      if (length > (announced ?? maxBytes)) return undefined
      if (whole === undefined) chunks.push(value)
      else whole.set(value, length - value.length)
    }
  } finally {
    // After the end this does nothing; before it nobody reads on.
    reader.cancel().catch(() => {})
  }
  if (announced !== undefined && length < announced) throw new Fault('request.malformed')
  return whole ?? joined(chunks, length)
}

const joined = (chunks: readonly Uint8Array[], length: number): Uint8Array => {
  const bytes = new Uint8Array(length)
  let offset = 0
  for (const chunk of chunks) {
    bytes.set(chunk, offset)
    offset += chunk.length
  }
  return bytes
}

const jsonType = 'application/json'

/** Bodies that do not announce their length are counted while they come in; one that has more is refused by this code. */
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

/** RFC 9110, 8.3.1: in any case, with or without parameters. */
const isJson = (type: string): boolean => type.split(';', 1)[0]?.trim().toLowerCase() === jsonType

/**
 * What may have another type, no length or no body at all; not every runtime can tell an empty body from none before it was
 * read. `request.body` is looked at here only: it makes a stream.
 */
const readUnusual = (request: Request, type: string, deadline: Deadline): Promise<unknown> | undefined => {
  const announced = request.headers.get('content-length')
  if (announced === '0' || request.body === null) return undefined
  if (!isJson(type)) {
    if (announced !== null) throw new Fault('request.media_type_unsupported')
    return deadline
      .run(readCounted(request, 0, () => new Fault('request.media_type_unsupported')))
      .then(() => undefined)
  }
  const read = announced === null ? readCounted(request, maxBodyBytes, tooLarge) : request.bytes()
  return deadline.run(read).then((bytes) => (bytes.length === 0 ? undefined : parseBody(bytes)))
}

/**
 * The JSON value of a request's body, or undefined where there is none. Faults: 415 for another media type, 413 over
 * 1 MiB, 400 for what is not JSON. A client may take its time over the body, but no more of it than the whole request has.
 */
export const readJson = (request: Request, deadline: Deadline): Promise<unknown> | undefined => {
  const type = request.headers.get('content-type') ?? ''
  const isUsual = type === jsonType && Number(request.headers.get('content-length')) > 0
  return isUsual ? deadline.run(request.bytes()).then(parseBody) : readUnusual(request, type, deadline)
}

const parseBody = (bytes: Uint8Array): unknown => {
  try {
    return parseJson(bytes)
  } catch (error) {
    if (error instanceof InvalidJson) throw new Fault('request.malformed', { cause: error })
    throw error
  }
}
