import { spawn } from 'node:child_process'
import { chmod, chown, mkdtemp, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestConnection } from './database.ts'
import { forgetProcess, reapFolder, reapProcess } from './reaper.ts'
import { freePort } from './redis.ts'

export type TestPooler = {
  /** To the same database through the pooler. */
  url: string
  stop(): Promise<void>
}

/** PgBouncer, where it is installed; undefined: tests that need it are skipped. */
export const pgbouncer = Bun.which('pgbouncer', { PATH: `${process.env['PATH']}:/usr/sbin` })

/**
 * A PgBouncer in front of a database. `server` is how many connections it opens to it: with one, every client whose statement
 * runs is linked to the same one.
 */
export const startPgbouncer = async (
  connection: TestConnection,
  {
    mode = 'transaction',
    server = 20,
    program = pgbouncer,
    settings = '',
  }: { mode?: 'transaction' | 'session'; server?: number; program?: string | null; settings?: string } = {},
): Promise<TestPooler> => {
  if (program === null) throw new Error('pgbouncer is not installed')
  const folder = await mkdtemp(join(tmpdir(), 'velro-pgbouncer-'))
  reapFolder(folder)
  const port = await freePort()
  const users = join(folder, 'users.txt')
  const file = join(folder, 'pgbouncer.ini')
  await writeFile(users, `"${connection.user}" ""\n`)
  await writeFile(
    file,
    `[databases]
* = host=${connection.host} port=${connection.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = trust
auth_file = ${users}
pool_mode = ${mode}
default_pool_size = ${server}
max_client_conn = 500
${settings}
ignore_startup_parameters = extra_float_digits, statement_timeout, idle_in_transaction_session_timeout, plan_cache_mode, enable_seqscan, options
`,
  )
  // It refuses to run as root, and must be allowed to enter the folder of the server's socket.
  const { uid, gid } = process.geteuid?.() === 0 ? await stat(connection.host) : { uid: undefined, gid: undefined }
  if (uid !== undefined && gid !== undefined) for (const path of [folder, users, file]) await chown(path, uid, gid)
  await chmod(folder, 0o755)
  const account = uid === undefined || gid === undefined ? {} : { uid, gid }
  const child = spawn(program, [file], { cwd: '/', stdio: ['ignore', 'pipe', 'pipe'], ...account })
  const pid = child.pid as number
  reapProcess(pid)
  let output = ''
  const ended = new Promise<void>((resolve) =>
    child.once('close', () => {
      forgetProcess(pid)
      resolve()
    }),
  )
  await new Promise<void>((resolve, reject) => {
    const take = (chunk: Buffer) => {
      output += chunk
      if (output.includes('process up')) resolve()
    }
    child.stdout.on('data', take)
    child.stderr.on('data', take)
    ended.then(() => reject(new Error(`PgBouncer did not start:\n${output}`)))
  })
  return {
    url: `postgres://${connection.user}@127.0.0.1:${port}/${connection.database}`,
    stop: async () => {
      child.kill('SIGKILL')
      await ended
    },
  }
}
