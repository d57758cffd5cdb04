import { Buffer } from 'node:buffer'
import busboy from 'busboy'
import { Fault, invalidInput } from '../../fault.ts'

/** How much a form may have besides the bytes of its file: boundaries, headers and other fields. */
export const formBytes = 65_536
const maxParts = 32

const octets = 'application/octet-stream'

/** The only file of a form, and the media type that its part names; undefined: none, or one that says nothing. */
export type FormFile = { readonly type: string | undefined; readonly isTooLarge: boolean }

/** Given the body of a form as it arrives; calls back with the bytes of its file. */
export type FormReader = {
  write(bytes: Uint8Array): void
  /** Throws `request.malformed` for a form that breaks off, and `request.invalid` for one without exactly one file. */
  end(): Promise<FormFile>
}

const malformed = (cause: unknown) => new Fault('request.malformed', { cause })

/**
 * Reads the file of a `multipart/form-data` body (RFC 7578), as forms of browsers send it. The name of the field does not matter,
 * and fields that are no file are ignored: a page may have some of its own. So is a file that the person did not choose, which a
 * browser sends without a name and without bytes.
 *
 * Throws `request.malformed` where the Content-Type names no boundary.
 */
export const createFormReader = (
  contentType: string,
  { maxBytes, onBytes }: { maxBytes: number; onBytes: (bytes: Uint8Array) => void },
): FormReader => {
  let files = 0
  let type: string | undefined
  let length = 0
  let failure: unknown
  const create = () => {
    try {
      const limits = { fileSize: maxBytes + 1, parts: maxParts, fieldSize: formBytes, headerPairs: 16 }
      return busboy({ headers: { 'content-type': contentType }, limits })
    } catch (error) {
      throw malformed(error)
    }
  }
  const parser = create()
  const fail = (error: unknown) => {
    failure ??= error
  }
  const ended = new Promise<void>((resolve) => {
    parser.once('close', resolve)
    parser.on('error', (error) => {
      fail(malformed(error))
      resolve()
    })
  })
  parser.on('partsLimit', () => fail(invalidInput('body', '', `must have at most ${maxParts} parts`)))
  parser.on('file', (_name, file, { filename, mimeType }) => {
    let isCounted = false
    const count = () => {
      if (isCounted) return
      isCounted = true
      files += 1
      type = mimeType === octets ? undefined : mimeType.toLowerCase()
    }
    if (filename) count()
    file.on('data', (bytes: Uint8Array) => {
      count()
      length += bytes.length
      if (files === 1 && length <= maxBytes) onBytes(bytes)
    })
    file.on('error', (error) => fail(malformed(error)))
  })

  return {
    write: (bytes) => {
      if (failure !== undefined) throw failure
      if (files > 1) throw invalidInput('body', '', 'must have one file')
      parser.write(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength))
    },
    end: async () => {
      parser.end()
      await ended
      if (failure !== undefined) throw failure
      if (files !== 1) throw invalidInput('body', '', 'must have one file')
      return { type, isTooLarge: length > maxBytes }
    },
  }
}
