import { afterAll, beforeAll, expect, test } from 'bun:test'
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { connectionEnvironment } from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

const script = fileURLToPath(new URL('../../src/boot/migrate.ts', import.meta.url))

let database: TestDatabase

beforeAll(async () => {
  database = await createDatabase({ migrated: false })
})
afterAll(() => database.drop())

const migrate = async (): Promise<string> => {
  const env = { ...process.env, ...connectionEnvironment(database.connection), SECRET: 's'.repeat(32) }
  const { stderr } = await promisify(execFile)(process.execPath, [script], { env })
  return stderr
}

test('the migrate script migrates an empty database once, and then reports that it is up to date', async () => {
  expect(await migrate()).toMatch(/^Applying \d+ migrations\nThe database is up to date\.\n$/)
  expect(await migrate()).toBe('The database is up to date.\n')
})
