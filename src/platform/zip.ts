import { makeZip } from 'client-zip'

/** A file of an archive. Its input is read when its turn comes. */
export type ZipEntry = {
  readonly name: string
  readonly modifiedAt: Date
  readonly input: ReadableStream<Uint8Array> | Blob | AsyncIterable<string>
}

async function* toInput(entries: AsyncIterable<ZipEntry>) {
  for await (const { name, modifiedAt, input } of entries) {
    yield { name, lastModified: modifiedAt, input: input instanceof Blob ? input.stream() : input }
  }
}

/**
 * A zip archive as a stream, with ZIP64 where it is needed. Nothing is compressed. Guarantee: an entry is asked for when the
 * entries before it were read, and the archive is whole only where its stream ended without an error: the directory comes last.
 */
export const zipStream = (entries: AsyncIterable<ZipEntry>): ReadableStream<Uint8Array> => makeZip(toInput(entries))
