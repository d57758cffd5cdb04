import { execFileSync, spawn } from 'node:child_process'
import { createServer } from 'node:net'
import { findProcess } from '../../src/platform/embedded-postgres/process-lock.ts'
import { forgetProcess, reapProcess, startedOnce } from './reaper.ts'

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
  // Not a child of this process: bun ends those when a single test times out. The shell prints the pid and exits.
  const shell = spawn('/bin/sh', ['-c', '"$@" & echo "pid $!"', 'sh', program, ...flags], {
    cwd: '/',
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  let pid = 0
  // The pipe closes with its last holder, which is Redis.
  const ended = new Promise<void>((resolve) =>
    shell.once('close', () => {
      forgetProcess(pid)
      resolve()
    }),
  )
  await new Promise<void>((resolve, reject) => {
    const take = (chunk: Buffer) => {
      output += chunk
      if (pid === 0) {
        pid = Number(/^pid (\d+)$/m.exec(output)?.[1] ?? 0)
        if (pid !== 0) reapProcess(pid)
      }
      if (pid !== 0 && /ready to accept connections/i.test(output)) resolve()
    }
    shell.stdout.on('data', take)
    shell.stderr.on('data', take)
    ended.then(() => reject(new Error(`Redis did not start:\n${output}`)))
  })
  return {
    url: `redis://127.0.0.1:${port}`,
    pid,
    stop: () => {
      if (findProcess(pid)?.args.includes(String(port))) process.kill(pid, 'SIGKILL')
      return ended
    },
  }
}

/**
 * The Redis all tests share: REDIS_URL, else redis-server or valkey-server from PATH, else installed with apt-get as root.
 * It may be in use by others: use keys with a prefix unique to the test and never flush it.
 */
export const redis = startedOnce((): Promise<TestRedis> => {
  const url = process.env['REDIS_URL']
  return url ? Promise.resolve({ url, pid: undefined, stop: async () => {} }) : startRedis()
})
