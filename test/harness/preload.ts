import { afterAll } from 'bun:test'
import { reapAll } from './reaper.ts'

/** After the last test of the last file; a worker of `bun test --parallel` runs it after each file. */
afterAll(reapAll)
