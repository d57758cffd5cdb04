import { afterAll, setDefaultTimeout } from 'bun:test'
import { reapAll } from './reaper.ts'

// For a single file run without `--timeout`: a server may start slowly on a busy machine.
setDefaultTimeout(60_000)

/** After the last test of the last file; a worker of `bun test --parallel` runs it after each file. */
afterAll(reapAll)
