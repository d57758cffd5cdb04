import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { reapFolder } from './reaper.ts'

let made: Promise<string> | undefined

const make = async () => {
  const folder = await mkdtemp(join(tmpdir(), 'velro-media-'))
  reapFolder(folder)
  return folder
}

/** Where all apps and servers of this test run keep pictures, unless told otherwise: the same bytes are one object anywhere. */
export const mediaFolder = (): Promise<string> => {
  made ??= make()
  return made
}
