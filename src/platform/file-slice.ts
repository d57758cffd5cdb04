/**
 * Part of a file as a response body that is sent with a Content-Length. Undefined on Deno, which keeps the Content-Length
 * header of a stream; Bun drops it.
 *
 * The file is opened when the response starts: if it has been deleted before, the response fails.
 */
export const fileSlice = (path: string, first: number, length: number): Blob | undefined =>
  typeof Bun === 'undefined' ? undefined : Bun.file(path).slice(first, first + length)
