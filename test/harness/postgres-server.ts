import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { chmod, copyFile, mkdir, mkdtemp, writeFile } from 'node:fs/promises'
import { networkInterfaces, tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { chownTo, environment, findPostgresHome, run } from '../../src/platform/embedded-postgres/home.ts'
import { connectOnce } from '../../src/platform/postgres.ts'
import { forgetProcess, reapFolder, reapProcess } from './reaper.ts'
import { freePort } from './redis.ts'

export type PostgresServer = {
  readonly port: number
  /** The directory of its socket. */
  readonly folder: string
  /** With the data, as the server's account owns it. */
  readonly data: string
  readonly connection: { host: string; port: number; user: string; database: string }
  /** A URL over TCP. */
  url(parts?: { user?: string; host?: string; query?: string }): string
  /** Stops the postmaster and every backend (SIGSTOP): connections stay open, new ones are accepted, and nothing answers. */
  freeze(): void
  thaw(): void
  stop(signal?: NodeJS.Signals): Promise<void>
}

export const hasIpv6 = Object.values(networkInterfaces()).some((all) => all?.some(({ address }) => address === '::1'))

type Options = {
  readonly settings?: Readonly<Record<string, string>>
  /** Lines of pg_hba.conf. */
  readonly access?: readonly string[]
  /** Files to copy into the data directory, by their names there. */
  readonly files?: Readonly<Record<string, string>>
  /** Creates the data directory. Default: initdb. */
  readonly create?: (data: string, runAs: (program: string, args: string[]) => Promise<string>) => Promise<unknown>
}

const childrenOf = (pid: number): number[] =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number)

const signalIfAlive = (pid: number, signal: NodeJS.Signals) => {
  try {
    process.kill(pid, signal)
  } catch {
    // It has ended.
  }
}

/** Stops and continues the postmaster with this id and every backend of it. */
export const createFreezer = (pidOf: () => number): Pick<PostgresServer, 'freeze' | 'thaw'> => {
  let frozen: readonly number[] = []
  return {
    freeze: () => {
      const pid = pidOf()
      // First, so that it starts no further backend.
      process.kill(pid, 'SIGSTOP')
      frozen = [...childrenOf(pid), pid]
      for (const each of frozen) signalIfAlive(each, 'SIGSTOP')
    },
    thaw: () => {
      for (const each of frozen) signalIfAlive(each, 'SIGCONT')
    },
  }
}

/** The id of the postmaster that listens in this folder. */
export const findPostmaster = ({ host, port }: { host: string; port: number }): number =>
  Number(readFileSync(`${host}/.s.PGSQL.${port}.lock`, 'utf8').split('\n')[0])

/** A separate server that listens on TCP, for what a test cannot do with the shared cluster. */
export const startPostgres = async ({
  settings = {},
  access,
  files = {},
  create,
}: Options = {}): Promise<PostgresServer> => {
  const folder = await mkdtemp(join(tmpdir(), 'velro-pg-'))
  reapFolder(folder)
  await chmod(folder, 0o755)
  const { account, native } = await findPostgresHome(folder, () => {})
  const data = join(folder, 'data')
  await mkdir(data, { mode: 0o700 })
  await chownTo(data, account)
  await chownTo(folder, account)
  const program = (name: string) => join(native, 'bin', name)
  await (create ?? (() => run(program('initdb'), ['-D', data, '-U', 'velro', '--auth=trust', '--no-sync'], account)))(
    data,
    (name, args) => run(name, args, account),
  )
  for (const [name, source] of Object.entries(files)) {
    await copyFile(source, join(data, name))
    await chmod(join(data, name), 0o600)
    await chownTo(join(data, name), account)
  }
  if (access !== undefined) await writeFile(join(data, 'pg_hba.conf'), `${access.join('\n')}\n`)
  const port = await freePort()
  const all = {
    fsync: 'off',
    listen_addresses: hasIpv6 ? '127.0.0.1,::1' : '127.0.0.1',
    unix_socket_directories: folder,
    port: String(port),
    ...settings,
  }
  const child: ChildProcess = spawn(
    program('postgres'),
    ['-D', data, ...Object.entries(all).flatMap(([name, value]) => ['-c', `${name}=${value}`])],
    { ...account, cwd: '/', env: environment, stdio: ['ignore', 'ignore', 'pipe'], detached: true },
  )
  let output = ''
  child.stderr?.on('data', (chunk) => {
    output += chunk
  })
  const pid = child.pid as number
  reapProcess(pid)
  let ended = false
  const exit = new Promise<void>((resolve) =>
    child.once('close', () => {
      ended = true
      forgetProcess(pid)
      resolve()
    }),
  )
  const connection = { host: folder, port, user: 'velro', database: 'postgres' }
  for (const giveUpAt = performance.now() + 20_000; ; await Bun.sleep(20)) {
    const sql = connectOnce(connection)
    const isUp = await sql`select 1`.then(
      () => true,
      () => false,
    )
    await sql.end({ timeout: 0 })
    if (isUp) break
    if (ended || performance.now() > giveUpAt) throw new Error(`Postgres did not start:\n${output}`)
  }
  return {
    port,
    folder,
    data,
    connection,
    url: ({ user = 'velro', host = '127.0.0.1', query = '' } = {}) =>
      `postgres://${user}@${host}:${port}/postgres${query && `?${query}`}`,
    ...createFreezer(() => pid),
    stop: async (signal = 'SIGQUIT') => {
      if (!ended) child.kill(signal)
      await exit
    },
  }
}

const openssl = (...args: string[]) => promisify(execFile)('openssl', args)

/**
 * Certificates in a new folder: `root.crt`, and signed by it `server.crt` for localhost and 127.0.0.1, and `client.crt` for
 * the user `certified`, with their keys; `other.crt`, a root that signed nothing.
 */
export const makeCertificates = async (): Promise<string> => {
  const folder = await mkdtemp(join(tmpdir(), 'velro-tls-'))
  reapFolder(folder)
  const at = (name: string) => join(folder, name)
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']
  const root = (name: string) =>
    openssl(
      'req',
      '-x509',
      ...key,
      '-days',
      '2',
      '-subj',
      `/CN=${name}`,
      '-keyout',
      at(`${name}.key`),
      '-out',
      at(`${name}.crt`),
    )
  await Promise.all([root('root'), root('other')])
  const signed = async (name: string, subject: string, extension: string) => {
    await writeFile(at(`${name}.ext`), extension)
    await openssl('req', ...key, '-subj', `/CN=${subject}`, '-keyout', at(`${name}.key`), '-out', at(`${name}.csr`))
    const signer = ['-CA', at('root.crt'), '-CAkey', at('root.key'), '-CAcreateserial', '-days', '2']
    await openssl(
      'x509',
      '-req',
      '-in',
      at(`${name}.csr`),
      ...signer,
      '-extfile',
      at(`${name}.ext`),
      '-out',
      at(`${name}.crt`),
    )
  }
  await signed('server', 'database', 'subjectAltName=DNS:localhost,IP:127.0.0.1')
  await signed('client', 'certified', 'extendedKeyUsage=clientAuth')
  return folder
}
