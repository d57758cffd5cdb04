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

/**
 * The JSON value of a request's body, or undefined where there is none. Faults: 415 for another media type, 413 over
 * 1 MiB, 400 for what is not JSON.
 */
export const readJson = (request: Request, contentType: string, deadline: Deadline): Promise<unknown> | undefined => {
  if (request.body === null) return undefined
  if (contentType !== 'application/json' && contentType !== '') throw new Fault('request.media_type_unsupported')
  const announced = request.headers.has('content-length')
  // A client may take its time over the body, but no more of it than the whole request has.
  const read = deadline.run(announced ? request.bytes() : readCounted(request))
  return read.then(contentType === '' ? refuseUntyped : parseBody)
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
