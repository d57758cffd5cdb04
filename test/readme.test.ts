import { afterAll, beforeAll, expect, test } from 'bun:test'
import { execFile } from 'node:child_process'
import { mkdtemp, readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { reapFolder } from './harness/reaper.ts'
import { startServer, type TestServer } from './harness.ts'

const readme = await readFile(new URL('../README.md', import.meta.url), 'utf8')
const configSource = await readFile(new URL('../src/config.ts', import.meta.url), 'utf8')

let server: TestServer

beforeAll(async () => {
  server = await startServer({ runtime: 'bun' })
})
afterAll(() => server.stop())

test('the first calls of the README give what the README says', async () => {
  const block = /```sh\n(base=[\s\S]*?)```/.exec(readme)?.[1] ?? ''
  const expected = block
    .split('\n')
    .filter((line) => line.startsWith('#=> '))
    .map((line) => line.slice(4))
  expect(expected.length).toBeGreaterThan(5)
  const script = block
    .replace(/^base=.*$/m, `base=${server.baseUrl}`)
    // An answer has no line end of its own.
    .replaceAll(/^(call .*)$/gm, '$1; echo')
  const folder = await mkdtemp(join(tmpdir(), 'velro-readme-'))
  reapFolder(folder)
  const { stdout } = await promisify(execFile)('bash', ['-euo', 'pipefail', '-c', script], { cwd: folder })
  const lines = stdout.split('\n').filter((line) => line !== '')
  expect(lines).toEqual(expected)
})

test('every variable of the configuration is in the table of the README, and no other', () => {
  const table = readme.slice(readme.indexOf('## Configuration'), readme.indexOf('## Architecture'))
  const documented = [...table.matchAll(/^\| (`[^|]*`) \|/gm)].flatMap(([, cell = '']) =>
    [...cell.matchAll(/`([A-Z0-9_]+)`/g)].map(([, name = '']) => name),
  )
  const read = [...configSource.matchAll(/(?:text|integer|list|oneOf)\(\s*'([A-Z0-9_]+)'/g)].map(
    ([, name = '']) => name,
  )
  expect(documented.toSorted()).toEqual([...new Set(read)].toSorted())
})
