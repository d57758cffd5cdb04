import { access, constants, mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { createDiskObjects } from '../platform/disk-objects.ts'

/** Throws the error of the file system, with the path, which Deno leaves out. */
const requireAccess = async (path: string): Promise<void> => {
  try {
    await access(path, constants.W_OK)
  } catch (error) {
    throw error instanceof Error ? Object.assign(error, { path }) : error
  }
}

/** Creates a directory unless it exists. Throws the error of the file system when it cannot be created or written. */
export const requireWritable = async (directory: string): Promise<void> => {
  await mkdir(directory, { recursive: true })
  await requireAccess(directory)
}

/** The folder can be written, but has no room now: everything else works meanwhile, and `/ready` reports it. */
const isFull = (error: unknown): boolean =>
  error instanceof Error && 'code' in error && (error.code === 'ENOSPC' || error.code === 'EDQUOT')

/**
 * Writes a draft into the folder of media objects, and looks at the folders in it, which another account may have made. Throws
 * the error of the file system when one cannot be written.
 */
export const requireMediaFolder = async (directory: string): Promise<void> => {
  await requireWritable(directory)
  await createDiskObjects({ directory })
    .probe()
    .catch((error) => {
      if (!isFull(error)) throw error
    })
  for (const name of await readdir(directory)) {
    if (/^[0-9a-f]{2}$/.test(name)) await requireAccess(`${join(directory, name)}/`)
  }
}
