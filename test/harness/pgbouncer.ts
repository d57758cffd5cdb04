import { chmod, chown, mkdtemp, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Daemon, startDaemon } from './daemon.ts'
import type { TestConnection } from './database.ts'
import { reapFolder } from './reaper.ts'
import { freePort } from './redis.ts'

export type TestPooler = {
  readonly port: number
  readonly version: string
  /** To the same database through the pooler, or to the one of this name. */
  url(database?: string): string
  /** Ends it at once and starts it again on its port. */
  restart(): Promise<void>
  stop(): Promise<void>
}

/** The PgBouncer of the system; undefined where none is installed, and tests that need it are skipped. */
export const pgbouncer = Bun.which('pgbouncer', { PATH: `${process.env['PATH']}:/usr/sbin` }) ?? undefined

/**
 * PgBouncer in transaction mode, with its defaults and these settings, in front of a Postgres that has its socket in the folder
 * `host`.
 */
export const startPgbouncer = async (
  { host, port: server, user, database }: TestConnection,
  {
    program = pgbouncer,
    settings = {},
  }: { program?: string | undefined; settings?: Readonly<Record<string, string>> } = {},
): Promise<TestPooler> => {
  if (program === undefined) throw new Error('pgbouncer is not installed')
  const folder = await mkdtemp(join(tmpdir(), 'velro-pgbouncer-'))
  reapFolder(folder)
  const port = await freePort()
  const users = join(folder, 'users.txt')
  const file = join(folder, 'pgbouncer.ini')
  const all = {
    listen_addr: '127.0.0.1',
    listen_port: `${port}`,
    unix_socket_dir: '',
    auth_type: 'trust',
    auth_file: users,
    pool_mode: 'transaction',
    ...settings,
  }
  const lines = Object.entries(all).map(([name, value]) => `${name} = ${value}`)
  await writeFile(users, `"${user}" ""\n`)
  await writeFile(file, `[databases]\n* = host=${host} port=${server}\n[pgbouncer]\n${lines.join('\n')}\n`)
  // It refuses to run as root, and must be allowed to enter the folder of the server's socket.
  const { uid, gid } = await stat(host)
  const account = process.geteuid?.() === 0 ? { uid, gid } : {}
  if (account.uid !== undefined) for (const path of [folder, users, file]) await chown(path, uid, gid)
  await chmod(folder, 0o755)
  const start = (): Promise<Daemon> => startDaemon([program, file], { account, ready: /process up/ })
  let daemon = await start()
  return {
    port,
    version: /process up: (PgBouncer \S+),/.exec(daemon.output())?.[1] ?? 'PgBouncer',
    url: (name = database) => `postgres://${user}@127.0.0.1:${port}/${name}`,
    restart: async () => {
      await daemon.stop()
      daemon = await start()
    },
    stop: () => daemon.stop(),
  }
}
