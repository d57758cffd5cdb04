import { Fault } from '../../fault.ts'
import { joined, refuseEncodedBody } from '../../http/body.ts'
import { type Deadline, DeadlinePassed, type StartDeadline } from '../../kit/deadline.ts'
import { type FormReader, formBytes } from './form.ts'

/** A body that has sent this much, or all of it, may wait for a slot. */
const openingBytes = 16 * 1_024
/** The rate is measured over windows of this length, so that a line may pause. */
const windowMs = 5_000
/** 262 kbit/s: less than an upload by 3G. */
export const minBytesPerSecond = 32 * 1_024
/** Limit for reading the body, without its wait for a slot: 25 MiB in a minute takes 3.5 Mbit/s. */
export const maxReadSeconds = 60

const tooSlow = () =>
  new Fault('media.too_slow', {
    extensions: { min_bytes_per_second: minBytesPerSecond, max_seconds: maxReadSeconds },
  })

/** A body that has its slot. */
type Pace = { bytes: number; readonly total: Deadline }

/** In bytes a second. The first second counts whole, so that a body that has just got its slot is not the slowest. */
const averageRate = ({ bytes, total }: Pace): number =>
  bytes / Math.max(1, maxReadSeconds - total.remainingMs() / 1_000)

/** The bytes of a body, and the media type that a form names for them. */
type Read = { readonly bytes: Uint8Array; readonly type: string | undefined }
/** Opens the reader of a body that is a form; `onBytes` takes the bytes of its file. */
type OpenForm = (onBytes: (bytes: Uint8Array) => void) => FormReader

type Chunks = ReadableStreamDefaultReader<Uint8Array>

/**
 * Reads the bodies of uploads, each at the rate that it must keep.
 *
 * Guarantee: a slot is asked for once bytes flow, and no byte is read while it is waited for. A body that sends less than
 * `minBytesPerSecond` over a window, or that takes longer than `maxReadSeconds`, is refused with `media.too_slow` and not
 * read any further. While other uploads wait for a slot, the body with the lowest average gives way in the same way at the end of
 * its window, where the largest upload would take longer than `maxReadSeconds` at its rate.
 * Cost: a body without a slot holds the first bytes that it sent.
 */
export const createBodyReader = ({
  startDeadline,
  maxBytes,
  othersWait,
}: {
  startDeadline: StartDeadline
  maxBytes: number
  othersWait: () => boolean
}) => {
  const paces = new Set<Pace>()

  /** At the end of a window in which so many bytes came. */
  const isTooSlow = (pace: Pace, bytes: number): boolean => {
    const rate = bytes / (windowMs / 1_000)
    if (rate < minBytesPerSecond || pace.total.remainingMs() <= 0) return true
    const average = averageRate(pace)
    return (
      rate < maxBytes / maxReadSeconds && othersWait() && [...paces].every((other) => averageRate(other) >= average)
    )
  }

  /** Reads chunks under windows, one after the other; `endWindow` throws where too few bytes came in one. */
  const createPull = (chunks: Chunks, endWindow: (bytes: number) => void) => {
    let window = startDeadline(windowMs)
    let inWindow = 0
    let reading: ReturnType<Chunks['read']> | undefined
    const startWindow = () => {
      window = startDeadline(windowMs)
      inWindow = 0
    }
    const pull = async (): Promise<Uint8Array | undefined> => {
      for (;;) {
        reading ??= chunks.read().catch((cause: unknown) => {
          throw new Fault('request.malformed', { cause })
        })
        try {
          const { done, value } = await window.run(reading)
          reading = undefined
          if (done) return undefined
          inWindow += value.length
          return value
        } catch (error) {
          if (!(error instanceof DeadlinePassed)) throw error
          endWindow(inWindow)
          startWindow()
        }
      }
    }
    return { pull, startWindow }
  }

  /**
   * The bytes of a body, or where it is a form those of its file. Undefined when there are more than `maxBytes`, by the
   * Content-Length or as counted while they are read; the rest is not read. With a Content-Length the bytes are in shared memory,
   * so that worker threads need no copy. Throws `media.too_slow`, `request.encoding_unsupported`, and `request.malformed` for a
   * body that breaks off; for a form also what its reader throws.
   */
  return async (request: Request, takeSlot: () => Promise<void>, openForm?: OpenForm): Promise<Read | undefined> => {
    refuseEncodedBody(request)
    const mostBytes = openForm === undefined ? maxBytes : maxBytes + formBytes
    const contentLength = Number(request.headers.get('content-length') ?? Number.NaN)
    const announced = Number.isSafeInteger(contentLength) ? contentLength : undefined
    if (announced !== undefined && announced > mostBytes) return undefined
    let stored = 0
    const parts: Uint8Array[] = []
    let whole: Uint8Array | undefined
    const store = (bytes: Uint8Array) => {
      if (whole === undefined) parts.push(bytes)
      else whole.set(bytes, stored)
      stored += bytes.length
    }
    const form = openForm?.(store)
    const finish = async (): Promise<Read | undefined> => {
      const file = form && (await startDeadline(windowMs).run(form.end()))
      if (file?.isTooLarge) return undefined
      return { bytes: whole?.subarray(0, stored) ?? joined(parts, stored), type: file?.type }
    }
    if (request.body === null) {
      await takeSlot()
      return finish()
    }
    const chunks = request.body.getReader()
    const opening: Uint8Array[] = []
    let pace: Pace | undefined
    const { pull, startWindow } = createPull(chunks, (bytes) => {
      if (pace === undefined || isTooSlow(pace, bytes)) throw tooSlow()
    })
    try {
      let opened = 0
      let chunk = await pull()
      while (chunk !== undefined && opened + chunk.length < openingBytes) {
        opening.push(chunk)
        opened += chunk.length
        chunk = await pull()
      }
      await takeSlot()
      const own: Pace = { bytes: 0, total: startDeadline(maxReadSeconds * 1_000) }
      pace = own
      paces.add(own)
      startWindow()
      whole = announced === undefined ? undefined : new Uint8Array(new SharedArrayBuffer(announced))
      const add = (bytes: Uint8Array) => {
        if (form === undefined) store(bytes)
        else form.write(bytes)
        own.bytes += bytes.length
      }
      for (const bytes of opening) add(bytes)
      for (; chunk !== undefined; chunk = await pull()) {
        if (own.bytes + chunk.length > (announced ?? mostBytes)) return undefined
        add(chunk)
      }
      if (announced !== undefined && own.bytes < announced) throw new Fault('request.malformed')
      return await finish()
    } finally {
      if (pace !== undefined) paces.delete(pace)
      // Does nothing after the end; before it, the rest of the body is not read.
      chunks.cancel().catch(() => {})
    }
  }
}
