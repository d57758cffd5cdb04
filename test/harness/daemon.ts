import { spawn } from 'node:child_process'
import { connect } from 'node:net'
import { findProcess } from '../../src/platform/embedded-postgres/process-lock.ts'
import { forgetProcess, reapProcess } from './reaper.ts'

export type Daemon = {
  readonly pid: number
  /** All output so far, of both streams. */
  output(): string
  /** Resolves when it has ended. */
  stop(signal?: NodeJS.Signals): Promise<void>
}

const accepts = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy()
      resolve(true)
    }).on('error', () => resolve(false))
  })

/**
 * Starts a program that serves until it is stopped. Resolves once its output matches `ready`, or the port accepts. The reaper
 * ends it with the tests.
 */
export const startDaemon = async (
  command: readonly string[],
  { account = {}, ready }: { account?: { uid?: number; gid?: number }; ready: RegExp | { readonly port: number } },
): Promise<Daemon> => {
  // Not a child of this process: bun ends those when a single test times out. The shell prints the pid and exits.
  const shell = spawn('/bin/sh', ['-c', '"$@" & echo "pid $!"', 'sh', ...command], {
    ...account,
    cwd: '/',
    detached: true,
    env: { PATH: process.env['PATH'], LC_ALL: 'C' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  let pid = 0
  let isOver = false
  // The pipe closes with its last holder, which is the program.
  const ended = new Promise<void>((resolve) =>
    shell.once('close', () => {
      isOver = true
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
      if (pid !== 0 && ready instanceof RegExp && ready.test(output)) resolve()
    }
    shell.stdout.on('data', take)
    shell.stderr.on('data', take)
    ended.then(() => reject(new Error(`${command[0]} did not start:\n${output}`)))
    const poll = async (port: number) => {
      while (!isOver && (pid === 0 || !(await accepts(port)))) await Bun.sleep(10)
      resolve()
    }
    if (!(ready instanceof RegExp)) void poll(ready.port)
  })
  return {
    pid,
    output: () => output,
    stop: (signal = 'SIGKILL') => {
      // Once it has ended, the pid may belong to another process.
      if (!isOver && findProcess(pid)) process.kill(pid, signal)
      return ended
    },
  }
}
