import { access, constants, mkdir } from 'node:fs/promises'

/** Creates a directory unless it exists. Throws the error of the file system when it cannot be created or written. */
export const requireWritable = async (directory: string): Promise<void> => {
  await mkdir(directory, { recursive: true })
  await access(directory, constants.W_OK)
}
