import type { Access } from '../../access/access.ts'
import type { Caller } from '../../access/principal.ts'
import { Fault } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { RecordSecurityEvent } from '../../http/security-events.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Deadline, StartDeadline } from '../../kit/deadline.ts'
import { type ObjectStore, objectKey } from '../../platform/objects.ts'
import { type ZipEntry, zipStream } from '../../platform/zip.ts'
import { type ExportedRow, type ExportStore, pagesOf, type ReadPage } from './export-store.ts'

/** For one page of rows, or for opening one file. */
const stepMs = 30_000
/** An archive ends after this long, whole or not. */
const longestMs = 3_600_000
/** An archive that is not read for so long ends. */
const defaultIdleMs = 60_000
/** Of one instance. An account has one at a time. */
const maxUnderWay = 8

async function* toJson(pages: AsyncIterable<readonly ExportedRow[]>): AsyncGenerator<string> {
  let separator = '[\n'
  for await (const rows of pages) {
    yield separator + rows.map(({ content }) => JSON.stringify(content)).join(',\n')
    separator = ',\n'
  }
  yield separator === '[\n' ? '[]\n' : '\n]\n'
}

/**
 * Passes a stream on, and calls `onEnd` once it has ended, failed, was cancelled, or was not read for `idleMs`: then it fails, so
 * that a client that stopped reading holds nothing.
 */
const watched = (stream: ReadableStream<Uint8Array>, idleMs: number, onEnd: () => void): ReadableStream<Uint8Array> => {
  const reader = stream.getReader()
  let timer: ReturnType<typeof setTimeout> | undefined
  const end = () => {
    clearTimeout(timer)
    onEnd()
  }
  const waitForRead = (controller: ReadableStreamDefaultController<Uint8Array>) => {
    timer = setTimeout(() => {
      const error = new Error(`The archive was not read for ${idleMs / 1_000} s`)
      end()
      controller.error(error)
      reader.cancel(error).catch(() => {})
    }, idleMs)
  }
  return new ReadableStream<Uint8Array>(
    {
      start: waitForRead,
      pull: async (controller) => {
        clearTimeout(timer)
        try {
          const { done, value } = await reader.read()
          if (done) {
            end()
            return controller.close()
          }
          controller.enqueue(value)
          waitForRead(controller)
        } catch (error) {
          end()
          throw error
        }
      },
      cancel: async (reason) => {
        end()
        // It rejects with the reason, which the entries do not handle.
        await reader.cancel(reason).catch(() => {})
      },
    },
    { highWaterMark: 0 },
  )
}

/**
 * Everything that the service holds about a person, and what the person made, as one archive: JSON for each kind of row, and the
 * bytes of all media.
 *
 * Guarantee: only rows of the account itself; no hash, token or key. The archive is streamed, so it needs no room here however
 * large it is. Session and account are checked again before each file: the stream fails once one of them has ended. Degrades: rows
 * that change meanwhile appear as they were when their page was read; a file whose bytes are gone is left out; an archive that its
 * client stops reading fails after a minute.
 */
export const createAccountExport = ({
  store,
  objects,
  access,
  clock,
  startDeadline,
  record,
  idleMs = defaultIdleMs,
}: {
  store: ExportStore
  objects: Pick<ObjectStore, 'open'>
  access: Pick<Access, 'authenticate'>
  clock: Clock
  startDeadline: StartDeadline
  record: RecordSecurityEvent
  idleMs?: number
}) => {
  /** When each began, by account. */
  const underWay = new Map<string, number>()
  const step = (): Deadline => startDeadline(stepMs)

  async function* entriesOf({ userId, sessionId }: Caller, untilMs: number): AsyncGenerator<ZipEntry> {
    const modifiedAt = new Date(clock.now())
    const recheck = async () => {
      if (clock.monotonic() > untilMs) throw new Error(`The archive was not read within ${longestMs / 60_000} minutes`)
      await access.authenticate({ userId, sessionId }, step())
    }
    const json = (name: string, read: ReadPage<ExportedRow>): ZipEntry => ({
      name: `${name}.json`,
      modifiedAt,
      input: toJson(pagesOf(read, step)),
    })
    for (const [name, part] of Object.entries(store.parts)) {
      await recheck()
      yield json(name, part(userId))
    }
    yield json('media', store.media(userId))
    for await (const rows of pagesOf(store.media(userId), step)) {
      for (const { id, sha256, content_type, created_at } of rows) {
        await recheck()
        const opened = await step().run(objects.open(objectKey(sha256)))
        if (opened === undefined) continue
        yield { name: `media/${id}.${content_type.split('/')[1] ?? 'bin'}`, modifiedAt: created_at, input: opened.body }
      }
    }
  }

  return {
    /** The bytes of the archive. Throws `identity.export_under_way`. */
    start: (context: RequestContext, caller: Caller, address: string): ReadableStream<Uint8Array> => {
      const nowMs = clock.monotonic()
      for (const [userId, startedMs] of underWay) if (nowMs - startedMs > longestMs) underWay.delete(userId)
      if (underWay.has(caller.userId) || underWay.size >= maxUnderWay) throw new Fault('identity.export_under_way')
      underWay.set(caller.userId, nowMs)
      const end = () => {
        if (underWay.get(caller.userId) === nowMs) underWay.delete(caller.userId)
      }
      record(context, 'account.exported', { address, user_id: caller.userId, session_id: caller.sessionId })
      return watched(zipStream(entriesOf(caller, nowMs + longestMs)), idleMs, end)
    },
  }
}

export type AccountExport = ReturnType<typeof createAccountExport>
