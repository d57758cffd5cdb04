import { open, readFile, realpath, rm } from 'node:fs/promises'
import { join } from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { findProcess } from './process-lock.ts'

/** The first process of a running Postgres, as its pid file tells; `status` is 'ready' when it takes connections. */
export type Postmaster = { pid: number; socketFolder: string; status: string }

/** There is no TCP: the port only names the socket. */
export const port = 5432
export const socketFile = (folder: string): string => join(folder, `.s.PGSQL.${port}`)

const stopWithinMs = 60_000

/** Whether the pid is a postmaster on this data, however it was started. In doubt it is: a second one must not start. */
const isPostmasterOf = async (pid: number, data: string): Promise<boolean> => {
  const args = findProcess(pid)?.args ?? ''
  if (!/(^|\/)postgres /.test(args)) return false // The children of a postmaster call themselves "postgres: ...".
  if (args.includes(` -D ${data} `)) return true
  if (args.includes(' -D /')) return false
  return (await realpath(`/proc/${pid}/cwd`).catch(() => data)) === data
}

/** The live postmaster that postmaster.pid names; undefined when it names a dead one or some other program. */
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
 * Disarms the pid files of a dead postmaster, whose pid may be another program's now. The rest of postmaster.pid stays: by
 * its shared memory key Postgres refuses to start while orphaned backends of the dead one still write.
 */
export const retirePidFiles = async (data: string, socketFolder: string): Promise<void> => {
  await rm(`${socketFile(socketFolder)}.lock`, { force: true })
  const file = await open(join(data, 'postmaster.pid'), 'r+').catch(() => undefined)
  if (!file) return
  try {
    const [, ...rest] = (await file.readFile('utf8')).split('\n')
    if (rest.length > 0) await file.write(['2147483646', ...rest].join('\n'), 0) // A pid no system gives out.
  } finally {
    await file.close()
  }
}

/** Fast shutdown: sessions end, everything is written, and the process is gone. Answers at once when it is gone already. */
export const endPostmaster = async (pid: number, log: (line: string) => void): Promise<void> => {
  const mark = findProcess(pid)?.mark
  const lives = () => mark !== undefined && findProcess(pid)?.mark === mark
  const send = (signal: 'SIGINT' | 'SIGQUIT') => {
    try {
      if (lives()) process.kill(pid, signal)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
    }
  }
  send('SIGINT')
  for (const hurryAt = Date.now() + stopWithinMs; lives() && Date.now() < hurryAt; ) await sleep(10)
  if (lives()) log(`the server (pid ${pid}) did not shut down in ${stopWithinMs / 1000} s: stopping it at once`)
  send('SIGQUIT')
  while (lives()) await sleep(10)
}
