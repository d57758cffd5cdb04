import { Fault } from './fault.ts'
import type { Deadline } from './kit/deadline.ts'
import { JsonRefused, parseJson } from './kit/json.ts'

/** What a JSON body may have: 1 MiB. */
export const maxBodyBytes = 1_048_576

/** Refuses by the announced length, before anything is read. */
export const refuseLargeBody = (request: Request): void => {
  const announced = request.headers.get('content-length')
  if (announced !== null && Number(announced) > maxBodyBytes) throw new Fault('request.too_large')
}

const jsonType = 'application/json'

/** Bodies that do not announce their length are counted while they come in. */
const readCounted = async (request: Request): Promise<Uint8Array> => {
  const chunks: Uint8Array[] = []
  let length = 0
  for await (const chunk of request.body ?? []) {
    length += chunk.length
    if (length > maxBodyBytes) throw new Fault('request.too_large')
    chunks.push(chunk)
  }
  const bytes = new Uint8Array(length)
  let offset = 0
  for (const chunk of chunks) {
    bytes.set(chunk, offset)
    offset += chunk.length
  }
  return bytes
}

/** What may have no type, no length or no body at all. `request.body` is looked at here only: it makes a stream. */
const readUnusual = (request: Request, type: string, deadline: Deadline): Promise<unknown> | undefined => {
  if (request.body === null) return undefined
  const [mediaType] = type.split(';', 1)
  if (mediaType !== jsonType && mediaType !== '') throw new Fault('request.media_type_unsupported')
  const announced = request.headers.has('content-length')
  const read = deadline.run(announced ? request.bytes() : readCounted(request))
  return read.then(mediaType === '' ? refuseUntyped : parseBody)
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
    if (error instanceof JsonRefused) throw new Fault('request.malformed', { cause: error })
    throw error
  }
}

/** Not every runtime can tell an empty body from none before it was read. */
const refuseUntyped = (bytes: Uint8Array): undefined => {
  if (bytes.length > 0) throw new Fault('request.media_type_unsupported')
}
