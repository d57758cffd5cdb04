import { chmodSync, existsSync, readdirSync, realpathSync, renameSync, writeFileSync } from 'node:fs'
import { mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { run } from '../../src/platform/embedded-postgres/home.ts'
import { type Daemon, startDaemon } from '../harness/daemon.ts'
import type { TestConnection } from '../harness/database.ts'
import { reapCluster, reapFolder } from '../harness/reaper.ts'
import { freePort } from '../harness/redis.ts'

/** Where `install.sh` lays out programs, in a folder for each release of Debian. */
const world = process.env['WORLD_PROGRAMS'] ?? '/var/tmp/velro-world'

/**
 * A program of a release. It is replaced by a script that calls the loader of that release, because other programs run it by
 * its path, as initdb does with postgres.
 */
const findInRelease = (release: string, name: string): string | undefined => {
  const root = join(world, release, 'root')
  const path = join(root, name)
  if (!existsSync(path)) return undefined
  if (existsSync(`${path}.program`)) return path
  const target = realpathSync(path)
  renameSync(path, `${path}.program`)
  const program = target === path ? `${path}.program` : target
  const loader = realpathSync(
    ['lib64', 'usr/lib64'].map((folder) => join(root, folder, 'ld-linux-x86-64.so.2')).find(existsSync) ?? '',
  )
  const libraries = ['usr/lib/x86_64-linux-gnu', 'lib/x86_64-linux-gnu'].map((folder) => join(root, folder)).join(':')
  writeFileSync(path, `#!/bin/sh\nexec '${loader}' --library-path '${libraries}' --argv0 '${path}' '${program}' "$@"\n`)
  chmodSync(path, 0o755)
  return path
}

const releases = ['trixie', 'bookworm']
const find = (name: string): string | undefined =>
  Bun.which(name, { PATH: `${process.env['PATH']}:/usr/sbin` }) ??
  releases
    .flatMap((release) => ['bin', 'sbin'].map((folder) => findInRelease(release, `usr/${folder}/${name}`)))
    .find((path) => path !== undefined)

/** PgBouncer of Debian 12, which is 1.18, and of the next release. */
export const findPgbouncer = (which: 'older' | 'newer'): string | undefined =>
  findInRelease(which === 'older' ? 'bookworm' : 'trixie', 'usr/sbin/pgbouncer')
export const findRedis = (): string | undefined => find('redis-server')
export const findValkey = (): string | undefined => find('valkey-server')
export const findNginx = (): string | undefined => find('nginx')
export const findPromtool = (): string | undefined => find('promtool')
export const findHaproxy = (): string | undefined => find('haproxy')

/** The folder with the programs of this major version of Postgres. */
export const findPostgres = (major: number): string | undefined => {
  const folder = `usr/lib/postgresql/${major}/bin`
  if (existsSync(`/${folder}`)) return `/${folder}`
  const release = releases.find((name) => existsSync(join(world, name, 'root', folder)))
  if (release === undefined) return undefined
  const programs = join(world, release, 'root', folder)
  for (const name of readdirSync(programs)) if (!name.endsWith('.program')) findInRelease(release, join(folder, name))
  return programs
}

type Account = { readonly uid?: number; readonly gid?: number }

/** Neither Postgres nor PgBouncer runs as root. */
const unprivileged = async (): Promise<Account> => {
  if (process.geteuid?.() !== 0) return {}
  for (const name of ['postgres', 'nobody']) {
    const ids = await Promise.all([run('id', ['-u', name]), run('id', ['-g', name])]).catch(() => undefined)
    if (ids !== undefined) return { uid: Number(ids[0]), gid: Number(ids[1]) }
  }
  throw new Error('There is neither a user postgres nor a user nobody')
}

export type WorldPostgres = TestConnection & {
  readonly version: string
  /** For the database of this name, over TCP. */
  url(database: string): string
}

/**
 * A Postgres as a package manager ships it, just-in-time compilation included, on a new cluster. It does not sync to disk.
 * The reaper of this process ends it.
 */
export const startPostgres = async (
  major: number,
  settings: Readonly<Record<string, string>> = {},
): Promise<WorldPostgres> => {
  const programs = findPostgres(major)
  if (programs === undefined) throw new Error(`Postgres ${major} is not installed`)
  const account = await unprivileged()
  const folder = await mkdtemp(join(tmpdir(), `velro-postgres-${major}-`))
  reapCluster(folder)
  await run('chown', [`${account.uid ?? process.getuid?.()}`, folder])
  const data = join(folder, 'data')
  await run(
    join(programs, 'initdb'),
    ['-D', data, '-U', 'velro', '-A', 'trust', '--no-sync', '--locale=C.UTF-8', '-E', 'UTF8'],
    account,
  )
  const port = await freePort()
  const all = { listen_addresses: '127.0.0.1', unix_socket_directories: folder, fsync: 'off', ...settings }
  await startDaemon(
    [
      join(programs, 'postgres'),
      ...['-D', data, '-p', `${port}`],
      ...Object.entries(all).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
    ],
    { account, ready: /ready to accept connections/ },
  )
  return {
    host: folder,
    port,
    user: 'velro',
    database: 'postgres',
    version: await run(join(programs, 'postgres'), ['--version'], account),
    url: (database) => `postgres://velro@127.0.0.1:${port}/${database}`,
  }
}

/** A folder for the configuration of a program, which an unprivileged account may read and write. */
const configurationFolder = async (name: string, account: Account): Promise<string> => {
  const folder = await mkdtemp(join(tmpdir(), `velro-${name}-`))
  reapFolder(folder)
  if (account.uid !== undefined) await run('chown', [`${account.uid}`, folder])
  return folder
}

export type Proxy = Daemon & { readonly port: number }

/**
 * HAProxy that passes connections on to a port: bytes, or HTTP requests. While nothing listens there, it accepts TCP connections
 * and closes them.
 */
export const startHaproxy = async (target: number, mode: 'tcp' | 'http' = 'tcp'): Promise<Proxy> => {
  const program = findHaproxy()
  if (program === undefined) throw new Error('haproxy is not installed')
  const account = await unprivileged()
  const path = join(await configurationFolder('haproxy', account), 'haproxy.cfg')
  const port = await freePort()
  await writeFile(
    path,
    `defaults
  mode ${mode}
  timeout connect 1s
  timeout client ${mode === 'http' ? '20s' : '1h'}
  timeout server ${mode === 'http' ? '20s' : '1h'}
  retries 0
listen proxy
  bind 127.0.0.1:${port}
  ${mode === 'http' ? 'http-request set-header X-Forwarded-For %[src]' : ''}
  server one 127.0.0.1:${target} check inter 100ms fall 1 rise 1 on-marked-down shutdown-sessions
`,
  )
  return { ...(await startDaemon([program, '-db', '-f', path], { account, ready: { port } })), port }
}

/** HAProxy that balances requests among ports of this machine, and asks each for `/ready` every 200 ms. It repeats nothing. */
export const startBalancer = async (targets: readonly number[]): Promise<Proxy> => {
  const program = findHaproxy()
  if (program === undefined) throw new Error('haproxy is not installed')
  const account = await unprivileged()
  const path = join(await configurationFolder('haproxy', account), 'haproxy.cfg')
  const port = await freePort()
  const servers = targets.map((target) => `  server port-${target} 127.0.0.1:${target} check inter 200ms fall 1 rise 1`)
  await writeFile(
    path,
    `defaults
  mode http
  timeout connect 1s
  timeout client 1m
  timeout server 1m
  retries 0
listen proxy
  bind 127.0.0.1:${port}
  balance roundrobin
  option httpchk GET /ready
${servers.join('\n')}
`,
  )
  return { ...(await startDaemon([program, '-db', '-f', path], { account, ready: { port } })), port }
}

/** nginx as a reverse proxy in front of a port, with the settings that src/boot/README.md names. */
export const startNginx = async (target: number): Promise<Proxy> => {
  const program = findNginx()
  if (program === undefined) throw new Error('nginx is not installed')
  const account = await unprivileged()
  const folder = await configurationFolder('nginx', account)
  const port = await freePort()
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (name) => `${name}_temp_path ${folder}/${name};`,
  )
  await writeFile(
    join(folder, 'nginx.conf'),
    `daemon off;
master_process off;
pid ${folder}/pid;
error_log stderr;
events {}
http {
  access_log off;
  ${temporary.join('\n  ')}
  client_max_body_size 64m;
  server {
    listen 127.0.0.1:${port};
    location / {
      proxy_pass http://127.0.0.1:${target};
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_request_buffering off;
      proxy_read_timeout 20s;
    }
  }
}
`,
  )
  const command = [program, '-c', join(folder, 'nginx.conf'), '-p', folder]
  return { ...(await startDaemon(command, { account, ready: { port } })), port }
}
