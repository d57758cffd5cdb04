import { type ChildProcess, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { connectionEnvironment } from '../../src/platform/postgres.ts'
import { testSecret } from './app.ts'
import { createDatabase, type TestConnection } from './database.ts'
import { mediaFolder } from './media.ts'
import { forgetProcess, reapProcess } from './reaper.ts'

export type Runtime = 'bun' | 'deno'

export type TestServer = {
  baseUrl: string
  process: ChildProcess
  pid: number
  connection: TestConnection
  /** All output so far, of both streams. */
  output(): string
  /** Sends SIGTERM, waits for the exit, and drops the database unless a connection was given. Resolves to the exit code. */
  stop(): Promise<number | null>
  /** Sends a signal. Resolves when the process has ended: do not await it for a signal that does not end the process. */
  kill(signal: NodeJS.Signals): Promise<number | null>
}

export type TestServerOptions = {
  runtime: Runtime
  env?: Record<string, string>
  connection?: TestConnection
  /** Another checkout of the program. Default: this one. */
  directory?: string
  /** Another file to run than `src/main.ts`. */
  entry?: string
  /** Default 20 s: slack for a busy machine. */
  readyWithinMs?: number
}

const root = fileURLToPath(new URL('../../', import.meta.url))

const commands: Record<Runtime, [string, ...string[]]> = {
  bun: [process.execPath],
  // The program itself and not its wrapper in .bin, so that signals reach it.
  deno: [fileURLToPath(new URL('../../node_modules/deno/deno', import.meta.url)), 'run', '-A'],
}

const isReady = (baseUrl: string): Promise<boolean> =>
  fetch(`${baseUrl}/ready`, { signal: AbortSignal.timeout(1_000) }).then(
    ({ status }) => status === 200,
    () => false,
  )

/** `src/main.ts` as a separate process, ready when this resolves. It takes a free port unless `env.PORT` names one. */
export const startServer = async (options: TestServerOptions): Promise<TestServer> => {
  const { runtime, env, connection: given, directory = root, entry = 'src/main.ts', readyWithinMs = 20_000 } = options
  const own = given === undefined ? await createDatabase() : undefined
  const connection = given ?? (own?.connection as TestConnection)
  const [command, ...args] = commands[runtime]
  const child = spawn(command, [...args, entry], {
    cwd: directory,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      PATH: process.env['PATH'],
      HOME: process.env['HOME'],
      DENO_NO_UPDATE_CHECK: '1',
      NO_COLOR: '1',
      ...connectionEnvironment(connection),
      SECRET: testSecret,
      HOST: '127.0.0.1',
      PORT: '0',
      DB_CONNECTIONS: '24',
      HASH_WORKERS: '1',
      // Limits are the subject of few tests; those turn them on.
      LIMITS: 'off',
      MEDIA_DIR: await mediaFolder(),
      ...env,
    },
  })
  let output = ''
  let port: string | undefined
  const take = (chunk: Buffer) => {
    output += chunk
    port ??= /http:\/\/localhost:(\d+)/.exec(output)?.[1]
  }
  child.stdout.on('data', take)
  child.stderr.on('data', take)
  const pid = child.pid as number
  reapProcess(pid)
  const ended = new Promise<number | null>((resolve) =>
    child.once('close', (code) => {
      forgetProcess(pid)
      resolve(code)
    }),
  )
  let alive = true
  ended.then(() => {
    alive = false
  })
  const kill = (signal: NodeJS.Signals) => {
    child.kill(signal)
    return ended
  }
  for (const giveUpAt = performance.now() + readyWithinMs; ; await Bun.sleep(10)) {
    if (port !== undefined && (await isReady(`http://127.0.0.1:${port}`))) break
    if (alive && performance.now() < giveUpAt) continue
    const code = await kill('SIGKILL')
    await own?.drop()
    throw new Error(`The server (${runtime}) was not ready, exit code ${code}, and wrote:\n${output}`)
  }
  return {
    baseUrl: `http://127.0.0.1:${port}`,
    process: child,
    pid,
    connection,
    output: () => output,
    kill,
    stop: async () => {
      const code = await kill('SIGTERM')
      await own?.drop()
      return code
    },
  }
}
