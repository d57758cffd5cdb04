import { afterAll } from 'bun:test'
import { reapAll } from './reaper.ts'

/** Runs once, after the last test of the last file. */
afterAll(reapAll)
