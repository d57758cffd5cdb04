import { execFileSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { link, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { platform } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'

/** A live process: `mark` is never shared by two processes, even when the system gives out the pid again. */
export type LiveProcess = { mark: string; args: string }

const readBootId = (): string => {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
  } catch {
    return ''
  }
}
let bootId: string | undefined

/** What runs under this pid now; undefined when nothing does, or only a zombie. */
export const findProcess = (pid: number): LiveProcess | undefined => {
  if (!Number.isInteger(pid) || pid <= 0) return undefined
  try {
    if (platform() === 'linux') {
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      if (fields[0] === 'Z' || fields[0] === 'X') return undefined
      const args = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ')
      bootId ??= readBootId()
      return { mark: `${bootId}/${fields[19]}`, args }
    }
    const line = execFileSync('ps', ['-ww', '-o', 'state=,lstart=,args=', '-p', String(pid)], {
      encoding: 'utf8',
      stdio: 'pipe',
    })
    const [, state, mark, args] = /^\s*(\S+)\s+(\w+ +\w+ +\d+ [\d:]+ \d+)\s+(.*)$/.exec(line.trimEnd()) ?? []
    return state === undefined || state.startsWith('Z')
      ? undefined
      : { mark: (mark ?? '').replace(/ +/g, '_'), args: `${args} ` }
  } catch {
    return undefined
  }
}

/**
 * A lock between processes of one machine that ends with its holder, kill -9 included. Answers the function that gives
 * the lock back, or undefined when a live process (this one too) holds it or took it just before us; never waits.
 *
 * The highest numbered file names the holder; empty means free. A file is only ever followed by the next number, made by
 * `link` (all or nothing), so that nobody has to delete a dead holder's file and so nobody deletes a live one's by mistake.
 * Processes in different containers cannot see each other's pids: do not let two containers share the folder.
 */
export const tryLock = async (folder: string, name: string): Promise<(() => Promise<void>) | undefined> => {
  const path = (number: number) => join(folder, `${name}.${number}`)
  const numbers = async () =>
    (await readdir(folder))
      .filter((file) => /^\d+$/.test(file.slice(name.length + 1)) && file.startsWith(`${name}.`))
      .map((file) => Number(file.slice(name.length + 1)))
      .sort((a, b) => a - b)

  const last = (await numbers()).at(-1) ?? 0
  if (last > 0) {
    const holder = await readFile(path(last), 'utf8').catch(() => undefined)
    if (holder === undefined) return undefined
    const [pid, mark] = holder.trim().split(' ')
    if (mark && findProcess(Number(pid))?.mark === mark) return undefined
  }

  const self = findProcess(process.pid)
  if (!self) throw new Error('The process table cannot be read (/proc or ps is missing), so nothing can be locked')
  const mine = last + 1
  const draft = join(folder, `.${name}-${randomUUID()}`)
  await writeFile(draft, `${process.pid} ${self.mark}\n`, { mode: 0o644 })
  try {
    await link(draft, path(mine))
  } catch (error) {
    if (['EEXIST', 'ENOENT'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined
    throw error
  } finally {
    await rm(draft, { force: true })
  }

  const all = await numbers()
  if (all.at(-1) !== mine) {
    await rm(path(mine), { force: true })
    return undefined
  }
  await Promise.all(all.slice(0, -1).map((number) => rm(path(number), { force: true })))
  return () => truncate(path(mine), 0)
}
