import { expect, test } from 'bun:test'
import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { RenderRequest } from '../../src/media/images/images.ts'
import { reapFolder } from '../harness/reaper.ts'
import { findS3Server, noS3Server, startS3 } from '../harness/s3.ts'

const pathOf = (path: string) => fileURLToPath(new URL(path, import.meta.url))
const deno = [pathOf('../../node_modules/deno/deno'), 'run', '-A', '--quiet']

test('images are rendered, inspected and stored on Bun and on Deno, and equal requests give equal bytes on both', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'velro-media-'))
  reapFolder(directory)
  const program = findS3Server()
  if (program === undefined) console.warn(`S3 is not tested under Deno: ${noS3Server}`)
  const s3 = program === undefined ? undefined : await startS3(program)
  const request: RenderRequest = { prompt: 'a lighthouse at dusk', seed: 7, width: 400, height: 300, format: 'png' }
  try {
    const run = async (...command: string[]) => {
      const [name = '', ...args] = command
      const given = [pathOf('./fixtures/media-process.ts'), directory, JSON.stringify(request)]
      if (s3 !== undefined) given.push(JSON.stringify({ ...s3, stop: undefined }))
      const { stdout } = await promisify(execFile)(name, [...args, ...given], { cwd: pathOf('../../') })
      return JSON.parse(stdout)
    }
    const onBun = await run(process.execPath)
    expect(onBun).toMatchObject({
      type: 'png',
      width: 400,
      height: 300,
      thumbnail: { width: 256, height: 192 },
      hasProgress: true,
      abortedWith: 'aborted',
      refused: 'truncated',
      video: { type: 'mp4', width: 64, height: 48, durationMs: 1_000, hasItsHash: true },
    })
    expect(onBun.stored).toEqual(Array.from({ length: s3 === undefined ? 1 : 2 }, () => [true, true, 2, null]))
    expect(await run(...deno)).toEqual(onBun)
  } finally {
    await s3?.stop()
    await rm(directory, { recursive: true, force: true })
  }
})
