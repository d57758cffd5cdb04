import { createServer } from 'node:net'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../../', import.meta.url))
const readyWithinMs = 30_000
const pollMs = 5
const endsWithinMs = 15_000

export type Server = {
  readonly url: string
  readonly pid: number
  /** From the start of the process to its first ready answer. */
  readonly readyAfterMs: number
  stop(): Promise<void>
}

type Environment = Readonly<Record<string, string>>

const running = new Set<{ stop(): Promise<void> }>()

/** Registers a cleanup that runs when the scenario ends, also after an error. */
export const onEnd = <T extends { stop(): Promise<void> }>(thing: T): T => {
  running.add(thing)
  return thing
}

/** Runs the cleanups registered since, the last first. */
export const endAll = async (): Promise<void> => {
  for (const thing of [...running].reverse()) {
    running.delete(thing)
    await thing.stop()
  }
}

export const freePort = (): Promise<number> =>
  new Promise((resolve, reject) => {
    const probe = createServer().once('error', reject)
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address()
      probe.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0))
    })
  })

const isReady = (url: string): Promise<boolean> =>
  fetch(url).then(
    async (response) => {
      await response.arrayBuffer()
      return response.ok
    },
    () => false,
  )

export type Runtime = 'bun' | 'deno'

const commands: Readonly<Record<Runtime, readonly string[]>> = {
  bun: [process.execPath],
  deno: [fileURLToPath(new URL('../../node_modules/deno/deno', import.meta.url)), 'run', '-A'],
}

/** Starts a file of a checkout and waits for `GET /ready`. It sees none of our environment but this. */
export const startServer = async (
  file: string,
  env: Environment,
  { runtime = 'bun', folder = root }: { readonly runtime?: Runtime; readonly folder?: string } = {},
): Promise<Server> => {
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  const startedMs = performance.now()
  const child = Bun.spawn([...commands[runtime], file], {
    cwd: folder,
    env: { PATH: process.env['PATH'], HOME: process.env['HOME'], HOST: '127.0.0.1', PORT: String(port), ...env },
    stdout: 'pipe',
    stderr: 'inherit',
  })
  const words = new Response(child.stdout).text()
  const stop = async () => {
    running.delete(handle)
    child.kill('SIGTERM')
    const hard = setTimeout(() => child.kill('SIGKILL'), endsWithinMs)
    await child.exited
    clearTimeout(hard)
  }
  const handle = onEnd({ stop })
  while (!(await isReady(`${url}/ready`))) {
    if (child.exitCode !== null) throw new Error(`${file} ended: ${await words}`)
    if (performance.now() - startedMs > readyWithinMs) throw new Error(`${file} was not ready in time`)
    await Bun.sleep(pollMs)
  }
  return { url, pid: child.pid, readyAfterMs: performance.now() - startedMs, stop }
}

const velroEnvironment = {
  LOG_LEVEL: 'warn',
  ACCESS_TOKEN_SECONDS: '3600',
  // The measurement is about authorization, not generation.
  JOB_CONCURRENCY: '0',
  WELCOME_CREDITS: '1000000',
  // One person sends all requests; the scenario `limits` turns them on.
  LIMITS: 'off',
}

export const startVelro = (database: Environment, runtime?: Runtime): Promise<Server> =>
  startServer('src/main.ts', { ...velroEnvironment, ...database }, { ...(runtime && { runtime }) })

/** Velro as another checkout has it. */
export const startVelroIn = (folder: string, database: Environment): Promise<Server> =>
  startServer('src/main.ts', { ...velroEnvironment, ...database }, { folder })

/** Velro that renders pictures on request. */
export const startVelroWithPictures = (database: Environment): Promise<Server> =>
  startServer('test/bench/controls/velro-with-pictures.ts', { ...velroEnvironment, ...database })

/** The same check on Elysia alone, with the answer at hand. */
export const startBareElysia = (processes = 1): Promise<Server> =>
  startServer('test/bench/controls/bare-elysia.ts', { PROCESSES: String(processes) })

/** The same on Deno, which has one process. */
export const startBareElysiaOnDeno = (): Promise<Server> =>
  startServer('test/bench/controls/bare-elysia-deno.ts', {}, { runtime: 'deno' })

/** The reconstruction of the backend that this one replaces, on the same tables. */
export const startReconstruction = (database: Environment): Promise<Server> =>
  startServer('test/bench/controls/reconstruction.ts', database)
