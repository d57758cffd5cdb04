import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { chownTo, environment, type PostgresHome, prepareSocketFolder, run } from './home.ts'
import { port, retirePidFiles } from './postmaster.ts'

const maxLogBytes = 10_000_000

const defaultSettings: Record<string, string> = {
  // An instance opens half of them by default, since several processes may share the server: 100 for the pools of each.
  max_connections: '220',
  shared_buffers: '128MB',
  random_page_cost: '1.1',
  timezone: 'UTC',
  log_timezone: 'UTC',
  log_line_prefix: '%m [%p] ',
  // Keeps statements and rows, which are user data, out of the log. A message itself may still quote a value.
  log_min_error_statement: 'panic',
  log_error_verbosity: 'terse',
}

export type LaunchOptions = {
  settings: Record<string, string> | undefined
  /** Fail instead of creating a cluster: the data existed before. */
  mustExist: boolean
  log: (line: string) => void
}

export type LaunchedServer = {
  pid: number
  /** The output of this server in `postgres.log`, for the error text when it fails to start. */
  readOutput(): Promise<string>
}

const removeDrafts = async (home: string): Promise<void> => {
  const drafts = (await readdir(home)).filter((file) => file.startsWith('data.new-'))
  for (const file of drafts) await rm(join(home, file), { recursive: true, force: true }).catch(() => {})
}

/** Atomic: initdb writes a draft folder, which is renamed when complete. A crash leaves a whole, synced cluster or none. */
const createCluster = async ({ account, home, native }: PostgresHome, sync: boolean): Promise<void> => {
  const draft = await mkdtemp(join(home, 'data.new-'))
  const login = ['--username=velro', '--auth-local=trust', '--auth-host=reject']
  const locale = ['--encoding=UTF8', '--locale=C', '--locale-provider=builtin', '--builtin-locale=C.UTF-8']
  try {
    await chownTo(draft, account)
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

/** Starts the server, after initdb if there is no cluster yet. Does not wait until it accepts connections. */
export const launch = async (
  place: PostgresHome,
  { settings: overrides, mustExist, log }: LaunchOptions,
): Promise<LaunchedServer> => {
  const { account, home, native, socketFolder } = place
  const data = join(home, 'data')
  const logPath = join(home, 'postgres.log')
  const settings = { ...defaultSettings, ...overrides }
  await removeDrafts(home)
  if (!existsSync(join(data, 'PG_VERSION'))) {
    if (mustExist) throw new Error(`${data} has disappeared`)
    log(`initialising the data directory ${data}`)
    await createCluster(place, settings['fsync'] !== 'off')
  }
  log('starting the server')
  await prepareSocketFolder(socketFolder, account)
  await retirePidFiles(data, socketFolder)
  const logBytes = (await stat(logPath).catch(() => undefined))?.size ?? 0
  if (logBytes > maxLogBytes) await rename(logPath, `${logPath}.1`)
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
    const from = logBytes > maxLogBytes ? 0 : logBytes
    return { pid: child.pid as number, readOutput: async () => (await readFile(logPath)).subarray(from).toString() }
  } finally {
    await output.close()
  }
}
