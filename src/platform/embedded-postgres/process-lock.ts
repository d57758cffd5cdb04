import { execFileSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { link, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { platform } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'

/** A live process. `mark` is unique to it, even if the system reuses its pid. */
export type LiveProcess = { mark: string; args: string }

const readBootId = (): string => {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
  } catch {
    return ''
  }
}
let bootId: string | undefined

/** The process with this pid; undefined without one, and for a zombie. */
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
 * A lock between the processes of one machine, released when its holder exits, kill -9 included. Returns the function that
 * releases it, or undefined if a live process (this one included) holds it or wins the race. Never waits.
 *
 * The file with the highest number names the holder; an empty one means free. Taking the lock creates the next number by
 * `link`, which is atomic, so no process deletes a dead holder's file and none can delete a live holder's by mistake.
 * Containers cannot see each other's pids, so two containers must not share the folder.
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
  if (!self) throw new Error('Cannot read the process table (/proc or ps is missing), which the lock needs')
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
