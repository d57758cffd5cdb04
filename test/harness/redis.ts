import { execFileSync } from 'node:child_process'
import { createServer } from 'node:net'
import { startDaemon } from './daemon.ts'
import { startedOnce } from './reaper.ts'

export type TestRedis = {
  /** For ioredis. */
  url: string
  /** Undefined for the server that REDIS_URL names. */
  pid: number | undefined
  /** Ends the server, if we started it. */
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

export const freePort = (): Promise<number> =>
  new Promise((resolve, reject) => {
    const probe = createServer().once('error', reject)
    probe.listen(0, '127.0.0.1', () => {
      const { port } = probe.address() as { port: number }
      probe.close(() => resolve(port))
    })
  })

/** A Redis for one test, which may stop and freeze it. It writes nothing to disk unless `flags` enable that. */
export const startRedis = async ({
  port: given,
  flags: extra = [],
  program: chosen,
}: {
  port?: number
  flags?: readonly string[]
  /** Default: redis-server or valkey-server from PATH. */
  program?: string
} = {}): Promise<TestRedis & { pid: number }> => {
  const program = chosen ?? findProgram() ?? install()
  const port = given ?? (await freePort())
  const flags = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--daemonize', 'no']
  flags.push(...extra)
  const { pid, stop } = await startDaemon([program, ...flags], { ready: /ready to accept connections/i })
  return { url: `redis://127.0.0.1:${port}`, pid, stop: () => stop() }
}

/**
 * The Redis all tests share: REDIS_URL, else redis-server or valkey-server from PATH, else installed with apt-get as root.
 * It may be in use by others: use keys with a prefix unique to the test and never flush it.
 */
export const redis = startedOnce((): Promise<TestRedis> => {
  const url = process.env['REDIS_URL']
  return url ? Promise.resolve({ url, pid: undefined, stop: async () => {} }) : startRedis()
})
