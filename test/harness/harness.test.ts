import { afterAll, describe, expect, test } from 'bun:test'
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { findProcess } from '../../src/platform/embedded-postgres/process-lock.ts'
import { connectOnce } from '../../src/platform/postgres.ts'
import { api, createDatabase, type Runtime, register, startApp, startServer } from '../harness.ts'

/** What the runner shares is left out: these processes start all they need. */
const { TEST_CLUSTER: _cluster, REDIS_URL: _redis, ...ownEnvironment } = process.env

describe('a test database', () => {
  test('has the schema, shares no rows with another, and is gone after it is dropped', async () => {
    const [a, b] = await Promise.all([createDatabase(), createDatabase()])
    const [sqlA, sqlB] = [connectOnce(a.connection), connectOnce(b.connection)]
    await sqlA`insert into users (id, email, display_name, password_hash) values (gen_random_uuid(), 'a@b.c', 'A', 'x')`
    expect([...(await sqlB`select count(*)::int as count from users`)]).toEqual([{ count: 0 }])
    await sqlA.end()
    await a.drop()
    const [row] = await sqlB`select count(*)::int as count from pg_database where datname = ${a.connection.database}`
    expect(row?.['count']).toBe(0)
    await sqlB.end()
    await b.drop()
  })
})

describe('the application in this process', () => {
  test('answers on a real socket until it is closed, and may be closed twice', async () => {
    const app = await startApp()
    const client = api(app.baseUrl)
    const person = await register(client)
    const me = await client.get('/api/v1/auth/me', { token: person.token })
    expect([me.status, me.body.id]).toEqual([200, person.id])
    await app.close()
    await app.close()
    await expect(client.get('/health')).rejects.toThrow()
  })
})

describe.each<Runtime>(['bun', 'deno'])('the application as a process of %s', (runtime) => {
  test('is ready when startServer resolves, its output can be read, and it is gone after stop', async () => {
    const server = await startServer({ runtime, env: { LOG_LEVEL: 'debug' } })
    const person = await register(api(server.baseUrl))
    expect(person.user.email).toBe(person.email)
    expect(server.output()).toContain('Velro is ready')
    expect(findProcess(server.pid)?.args).toContain('src/main.ts')
    expect(await server.stop()).toBe(0)
    expect(findProcess(server.pid)).toBeUndefined()
  })

  test('rejects with the exit code and the output when it does not start', async () => {
    const failing = startServer({ runtime, env: { LOG_LEVEL: 'loud' } })
    await expect(failing).rejects.toThrow(/exit code 1[\s\S]*LOG_LEVEL must be one of/)
  })
})

describe('a test run that is killed', () => {
  const script = fileURLToPath(new URL('./fixtures/abandon.ts', import.meta.url))
  const child = spawn(process.execPath, [script], { stdio: ['ignore', 'pipe', 'inherit'], env: ownEnvironment })
  afterAll(() => void child.kill('SIGKILL'))

  test('leaves no process and no folder behind', async () => {
    const line = await new Promise<string>((resolve) =>
      createInterface({ input: child.stdout }).once('line', (text) => resolve(text)),
    )
    const { folders, pids } = JSON.parse(line) as { folders: string[]; pids: number[] }
    const left = () => [...pids.filter((pid) => findProcess(pid) !== undefined), ...folders.filter(existsSync)]
    expect(left()).toEqual([...pids, ...folders])
    child.kill('SIGKILL')
    for (const giveUpAt = Date.now() + 10_000; left().length > 0 && Date.now() < giveUpAt; ) await Bun.sleep(10)
    expect(left()).toEqual([])
  })
})

test('a test that times out leaves the shared servers to the tests after it, and all end with the run', async () => {
  const script = fileURLToPath(new URL('./fixtures/slow.ts', import.meta.url))
  const child = spawn(process.execPath, ['test', script], { stdio: ['ignore', 'pipe', 'pipe'], env: ownEnvironment })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      output += chunk
    })
  }
  await new Promise((resolve) => child.once('close', resolve))
  expect(output).toMatch(/\(fail\) times out/)
  expect(output).toMatch(/\(pass\) both still answer/)
  const folder = /socket folder: (.+)/.exec(output)?.[1] ?? ''
  expect(folder).toStartWith('/')
  expect(existsSync(folder)).toBe(false)
})
