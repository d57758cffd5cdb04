import { execFileSync, spawn } from 'node:child_process'
import { createServer } from 'node:net'
import { forgetProcess, reapProcess } from './reaper.ts'

export type TestRedis = {
  /** For ioredis. */
  url: string
  /** Undefined for the one REDIS_URL names. */
  pid: number | undefined
  /** Ends it, if it is ours. */
  stop(): Promise<void>
}

const findProgram = (): string | null => Bun.which('redis-server') ?? Bun.which('valkey-server')

const install = (): string => {
  if (process.geteuid?.() === 0 && Bun.which('apt-get')) {
    const options = { stdio: 'ignore', env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' } } as const
    execFileSync('apt-get', ['update', '-qq'], options)
    execFileSync('apt-get', ['install', '-y', '-qq', '--no-install-recommends', 'redis-server'], options)
  }
  const program = findProgram()
  if (program === null)
    throw new Error('These tests need a Redis: install redis-server or valkey-server, or set REDIS_URL')
  return program
}

const freePort = (): Promise<number> =>
  new Promise((resolve, reject) => {
    const probe = createServer().once('error', reject)
    probe.listen(0, '127.0.0.1', () => {
      const { port } = probe.address() as { port: number }
      probe.close(() => resolve(port))
    })
  })

/** A Redis of one's own, to stop and freeze at will. It keeps nothing on disk. */
export const startRedis = async ({ port: given }: { port?: number } = {}): Promise<TestRedis & { pid: number }> => {
  const program = findProgram() ?? install()
  const port = given ?? (await freePort())
  const child = spawn(
    program,
    ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--daemonize', 'no'],
    { cwd: '/', stdio: ['ignore', 'pipe', 'pipe'] },
  )
  const pid = child.pid as number
  reapProcess(pid)
  const ended = new Promise<void>((resolve) =>
    child.once('close', () => {
      forgetProcess(pid)
      resolve()
    }),
  )
  let output = ''
  await new Promise<void>((resolve, reject) => {
    child.stdout.on('data', (chunk) => {
      output += chunk
      if (/ready to accept connections/i.test(output)) resolve()
    })
    child.stderr.on('data', (chunk) => {
      output += chunk
    })
    ended.then(() => reject(new Error(`Redis did not start:\n${output}`)))
  })
  return {
    url: `redis://127.0.0.1:${port}`,
    pid,
    stop: () => {
      child.kill('SIGKILL')
      return ended
    },
  }
}

let shared: Promise<TestRedis> | undefined

/**
 * The Redis all tests share: REDIS_URL, else redis-server or valkey-server from PATH, else installed with apt-get as root.
 * It may be somebody's: use keys of your own and never flush it.
 */
export const redis = (): Promise<TestRedis> => {
  const url = process.env['REDIS_URL']
  shared ??= url ? Promise.resolve({ url, pid: undefined, stop: async () => {} }) : startRedis()
  return shared
}
