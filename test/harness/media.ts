import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { reapFolder, startedOnce } from './reaper.ts'

/** Where all apps and servers of this process keep media by default. Objects are named by their content, so they can share it. */
export const mediaFolder = startedOnce(async () => {
  const folder = await mkdtemp(join(tmpdir(), 'velro-media-'))
  reapFolder(folder)
  return folder
})
