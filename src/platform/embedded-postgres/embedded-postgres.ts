import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, open, readdir, readFile, rename, rm, rmdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { clearTimeout, setTimeout as later } from 'node:timers'
import { setTimeout as sleep } from 'node:timers/promises'
import { environment, findPostgresHome, give, type PostgresHome, prepareSocketFolder, run } from './home.ts'
import { endPostmaster, findPostmaster, type Postmaster, port, retirePidFiles, socketFile } from './postmaster.ts'
import { findProcess, tryLock } from './process-lock.ts'

// The package's own class is not used: its async-exit-hook takes SIGINT and SIGTERM and would stop the server under us.

export type EmbeddedPostgres = {
  /** For postgres.js: `postgres(pg.connection)`. Stays the same when the server is restarted. */
  connection: { host: string; port: number; user: string; database: string }
  /** The folder that holds the data; another one than asked for when Postgres cannot enter that. */
  directory: string
  /** The postmaster; another one after a restart. */
  readonly pid: number
  /** Stops the server if this handle owns it, and waits until it is gone; otherwise only lets go of it. Idempotent. */
  stop(): Promise<void>
}

export type EmbeddedPostgresOptions = {
  directory: string
  /** Server settings, over the defaults below. A server that already runs keeps the ones it has. */
  settings?: Record<string, string>
  /** The database named in `connection`; not created here. */
  database?: string
  /** Our own notices. What the server itself says goes to `postgres.log` in the directory. */
  log?: (line: string) => void
  /** The server went away and is back, with this pid. */
  onRestart?: (pid: number) => void
  supervise?: boolean
}

const checkEveryMs = 200
const readyWithinMs = 120_000
const maxLogBytes = 10_000_000

const defaultSettings: Record<string, string> = {
  max_connections: '120',
  shared_buffers: '128MB',
  random_page_cost: '1.1',
  timezone: 'UTC',
  log_timezone: 'UTC',
  log_line_prefix: '%m [%p] ',
  // Statements and rows belong to the users and stay out of the log; a message itself may still quote a value.
  log_min_error_statement: 'panic',
  log_error_verbosity: 'terse',
}

/** One line for the operator out of an error, a program's output or the server's log. */
const inWords = (error: unknown): string => {
  const { message = String(error), stderr = '' } = error as { message?: string; stderr?: string }
  const told = stderr || message
  const lines = told.split('\n').filter((line) => /FATAL|PANIC|error:|HINT/.test(line))
  const kind = /No space left|free disk space|ENOSPC|quota/i.test(told)
    ? 'the disk is full: '
    : /permission denied|not permitted|read-only|EACCES|EPERM|EROFS/i.test(told)
      ? 'no permission: '
      : ''
  return kind + (lines.slice(-3).join(' ') || message).trim().replace(/\s*\n\s*/g, ' ')
}

const removeDrafts = async (home: string): Promise<void> => {
  const drafts = (await readdir(home)).filter((file) => file.startsWith('data.new-'))
  for (const file of drafts) await rm(join(home, file), { recursive: true, force: true }).catch(() => {})
}

/** initdb beside, then a rename: a cluster is there as a whole and on disk, or not at all. */
const createCluster = async ({ account, home, native }: PostgresHome, sync: boolean): Promise<void> => {
  const draft = await mkdtemp(join(home, 'data.new-'))
  const login = ['--username=velro', '--auth-local=trust', '--auth-host=reject']
  const locale = ['--encoding=UTF8', '--locale=C', '--locale-provider=builtin', '--builtin-locale=C.UTF-8']
  try {
    await give(draft, account)
    await run(
      join(native, 'bin', 'initdb'),
      ['-D', draft, ...login, ...locale, ...(sync ? [] : ['--no-sync'])],
      account,
    )
    await rename(draft, join(home, 'data'))
  } catch (error) {
    await removeDrafts(home)
    throw error
  }
  const folder = await open(home, 'r')
  await folder.sync().finally(() => folder.close())
}

/**
 * Runs the Postgres of the npm package, for a machine that has none. The promise: when this answers, the server takes
 * connections, over a unix socket and from its own account or root only. What it has committed survives kill -9 of anything
 * and a power cut, unless `settings` turn fsync off.
 *
 * One live handle owns the server: it starts, watches and stops it. Other handles, in this process or another, share it,
 * and own it within moments of the owner's end (starting it again if the owner stopped it). A server that outlived all its
 * owners is adopted. It has a session of its own: no Ctrl-C reaches it, and it does not keep this process running.
 *
 * Throws an Error for the operator to read: unsupported system, missing programs, full disk, no permission, or the
 * server's own last words. Once up, failures are logged and tried again, 0.1 to 2 s apart. Two containers must not use one
 * directory at the same time: neither Postgres nor we can see each other's processes there.
 */
export const startEmbeddedPostgres = async (options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> => {
  const log = (line: string) => options.log?.(`embedded postgres: ${line}`)
  const failure = (cause: unknown) =>
    new Error(`Embedded Postgres in ${options.directory}: ${inWords(cause)}`, { cause })
  const place = await findPostgresHome(options.directory, log).catch((error) => {
    throw failure(error)
  })
  const { account, home, native, socketFolder } = place
  const data = join(home, 'data')
  const logPath = join(home, 'postgres.log')
  const settings = { ...defaultSettings, ...options.settings }

  let release: (() => Promise<void>) | undefined // Set: this handle owns the server.
  let current: Postmaster | undefined
  let stopping = false

  const ours = (found: Postmaster): boolean => found.socketFolder === socketFolder
  const usable = (found: Postmaster): boolean =>
    ours(found) && found.status === 'ready' && existsSync(socketFile(socketFolder))

  const launch = async () => {
    await removeDrafts(home)
    if (!existsSync(join(data, 'PG_VERSION'))) {
      if (current) throw new Error(`${data} has disappeared`)
      await createCluster(place, settings['fsync'] !== 'off')
    }
    await prepareSocketFolder(socketFolder, account)
    await retirePidFiles(data, socketFolder)
    const written = (await stat(logPath).catch(() => undefined))?.size ?? 0
    if (written > maxLogBytes) await rename(logPath, `${logPath}.1`)
    const fixed = { listen_addresses: '', unix_socket_directories: socketFolder, port: String(port) }
    const flags = Object.entries({ ...settings, ...fixed }).flatMap(([name, value]) => ['-c', `${name}=${value}`])
    const output = await open(logPath, 'a', 0o600)
    try {
      const child = spawn(join(native, 'bin', 'postgres'), ['-D', data, ...flags], {
        ...account,
        cwd: '/',
        env: environment,
        detached: true,
        stdio: ['ignore', output.fd, output.fd],
      })
      await new Promise((resolve, reject) => child.once('spawn', resolve).once('error', reject))
      child.unref()
      const from = written > maxLogBytes ? 0 : written
      return { pid: child.pid as number, lastWords: async () => (await readFile(logPath)).subarray(from).toString() }
    } finally {
      await output.close()
    }
  }

  /** Ends with a usable server, adopted, shared or started; or, when we are stopping, with whatever there is to stop. */
  const bringUp = async (): Promise<void> => {
    let started: Awaited<ReturnType<typeof launch>> | undefined
    for (const giveUpAt = Date.now() + readyWithinMs; Date.now() < giveUpAt; await sleep(10)) {
      const owned = release !== undefined
      release ??= await tryLock(home, 'owner')
      const found = await findPostmaster(data)
      if (found && (usable(found) || (stopping && ours(found)))) {
        if (release && !owned) log(`this process owns the running server (pid ${found.pid}) now`)
        current = found
        return
      }
      if (stopping && !started) return
      if (!release) continue
      // While one starts, what its file tells of it may be cut anywhere.
      if (found && !ours(found) && /^(ready|standby)$/.test(found.status)) {
        throw new Error(`a Postgres that Velro did not start (pid ${found.pid}) runs on this data: stop it first`)
      }
      if (found?.status === 'ready') {
        log(`the socket of the server (pid ${found.pid}) was deleted: restarting it`)
        await endPostmaster(found.pid, log)
      } else if (!found && !started) {
        if (current) log(`the server (pid ${current.pid}) went away: restarting it`)
        started = await launch()
      } else if (!found && started && !findProcess(started.pid)) {
        throw new Error((await started.lastWords()) || 'the server ended without a word')
      }
    }
    throw new Error(`not ready after ${readyWithinMs / 1000} s, see ${logPath}`)
  }

  const bringUpPatiently = async (worthATry: (error: unknown, sinceMs: number) => boolean): Promise<void> => {
    const begunAt = Date.now()
    for (let backoffMs = 100; ; backoffMs = Math.min(backoffMs * 2, 2_000)) {
      try {
        return await bringUp()
      } catch (error) {
        if (stopping || !worthATry(error, Date.now() - begunAt)) throw error
        log(`${inWords(error)}; trying again in ${backoffMs} ms`)
        await sleep(backoffMs)
      }
    }
  }

  let timer: ReturnType<typeof later> | undefined
  let checking = Promise.resolve()
  const check = async (): Promise<void> => {
    const before = current?.pid
    await bringUpPatiently(() => true)
    if (stopping || current === undefined || current.pid === before) return
    log(`the server is back (pid ${current.pid})`)
    options.onRestart?.(current.pid)
  }
  const watch = (): void => {
    timer = later(() => {
      checking = check()
        .catch((error) => log(inWords(error)))
        .then(() => (stopping ? undefined : watch()))
    }, checkEveryMs)
    timer.unref()
  }

  const end = async (): Promise<void> => {
    stopping = true
    clearTimeout(timer)
    await checking
    if (!release) return
    try {
      const found = await findPostmaster(data)
      if (found && ours(found)) await endPostmaster(found.pid, log)
      await rmdir(socketFolder).catch(() => {})
    } finally {
      await release()
    }
  }
  let ended: Promise<void> | undefined
  const stop = (): Promise<void> => (ended ??= end())

  try {
    // What a server that has just died leaves behind can bar the way for a moment.
    await bringUpPatiently((error, sinceMs) => sinceMs < 10_000 && /shared memory block|lock file/.test(String(error)))
  } catch (error) {
    await stop().catch(() => {})
    throw failure(error)
  }
  if (options.supervise !== false) watch()
  return {
    connection: { host: socketFolder, port, user: 'velro', database: options.database ?? 'postgres' },
    directory: home,
    get pid() {
      return (current as Postmaster).pid
    },
    stop,
  }
}
