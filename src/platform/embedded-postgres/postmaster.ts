import { open, readFile, realpath, rm } from 'node:fs/promises'
import { join } from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { findProcess } from './process-lock.ts'

/** The main process of a Postgres server, read from its pid file. `status` is 'ready' when it accepts connections. */
export type Postmaster = { pid: number; socketFolder: string; status: string }

/** The server does not listen on TCP; the port is part of the socket's file name. */
export const port = 5432
export const socketFile = (folder: string): string => join(folder, `.s.PGSQL.${port}`)

const stopWithinMs = 60_000

/** Whether the pid is a postmaster on this data directory, however it was started. True in doubt: a second one must not start. */
const isPostmasterOf = async (pid: number, data: string): Promise<boolean> => {
  const args = findProcess(pid)?.args ?? ''
  if (!/(^|\/)postgres /.test(args)) return false // Its child processes are titled "postgres: ...".
  if (args.includes(` -D ${data} `)) return true
  if (args.includes(' -D /')) return false
  return (await realpath(`/proc/${pid}/cwd`).catch(() => data)) === data
}

/** The live postmaster named by postmaster.pid; undefined if that process is dead or another program. */
export const findPostmaster = async (data: string): Promise<Postmaster | undefined> => {
  const text = await readFile(join(data, 'postmaster.pid'), 'utf8').catch((error) => {
    if (error.code === 'ENOENT') return ''
    throw error
  })
  const [pid, , , , socketFolder = '', , , status = ''] = text.split('\n')
  if (!(await isPostmasterOf(Number(pid), data))) return undefined
  return { pid: Number(pid), socketFolder, status: status.trim() }
}

/**
 * Invalidates the pid files of a dead postmaster, because another program may have its pid now. The rest of postmaster.pid
 * stays: its shared memory key makes Postgres refuse to start while orphaned backends of the dead server still write.
 */
export const retirePidFiles = async (data: string, socketFolder: string): Promise<void> => {
  await rm(`${socketFile(socketFolder)}.lock`, { force: true })
  const file = await open(join(data, 'postmaster.pid'), 'r+').catch(() => undefined)
  if (!file) return
  try {
    const [, ...rest] = (await file.readFile('utf8')).split('\n')
    if (rest.length > 0) await file.write(['2147483646', ...rest].join('\n'), 0) // A pid that no system assigns.
  } finally {
    await file.close()
  }
}

/** Fast shutdown: ends the sessions, writes a checkpoint and waits for the exit. Immediate shutdown after 60 s. */
export const stopPostmaster = async (pid: number, log: (line: string) => void): Promise<void> => {
  const mark = findProcess(pid)?.mark
  const isAlive = () => mark !== undefined && findProcess(pid)?.mark === mark
  const send = (signal: 'SIGINT' | 'SIGQUIT') => {
    try {
      if (isAlive()) process.kill(pid, signal)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
    }
  }
  send('SIGINT')
  for (const endsAtMs = Date.now() + stopWithinMs; isAlive() && Date.now() < endsAtMs; ) await sleep(10)
  if (isAlive()) log(`the server (pid ${pid}) did not shut down within ${stopWithinMs / 1000} s: sending SIGQUIT`)
  send('SIGQUIT')
  while (isAlive()) await sleep(10)
}
