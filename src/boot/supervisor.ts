import type { Config } from '../config.ts'
import { delay } from '../kit/async.ts'
import { type Child, type Exit, spawnChild } from '../platform/child-process.ts'
import type { Log } from '../platform/log.ts'
import { connectionEnvironment } from '../platform/postgres.ts'
import type { BackingDatabase } from './open-database.ts'

/** The first child process ended before it served. With exit code 1 it has reported the reason itself. */
export class StartFailed extends Error {
  override readonly name = 'StartFailed'
  readonly isReported: boolean
  constructor(exit: Exit) {
    super(`Velro could not start: its first process ended ${inWords(exit)}.`)
    this.isReported = exit.code === 1
  }
}

/** A life shorter than this counts as having failed to start. */
const earlyMs = 10_000
/** How much longer than it may drain a process may take to end. */
const endingMs = 5_000

/** How long to wait before a process is started again whose last `earlyDeaths` lives were short. */
export const respawnDelayMs = (earlyDeaths: number): number =>
  earlyDeaths < 2 ? 0 : Math.min(5_000, 100 * 2 ** (earlyDeaths - 1))

const inWords = ({ code, signal, error }: Exit): string =>
  signal !== null ? `by ${signal}` : code !== null ? `with exit code ${code}` : `before it began: ${error}`

/**
 * Serves in `config.processes` processes on one port, and keeps that many running: one that ends is replaced at once, one
 * that keeps ending early ever later, up to 5 s apart. They end with this process, however that ends.
 *
 * Resolves when the first serves; `complete` does when all do. The first starts alone, so that a reason not to start is
 * reported once: `StartFailed`.
 */
export const startInstances = async (config: Config, { connection, secret }: BackingDatabase, log: Log) => {
  const living = new Set<Child>()
  const failures: string[] = []
  const first = Promise.withResolvers<number>()
  const complete = Promise.withResolvers<void>()
  const told = new AbortController()
  let stopping = false
  let { port } = config
  let served = 0

  const spawn = (): Child => {
    const child = spawnChild({ ...connectionEnvironment(connection), SECRET: secret, PORT: String(port) })
    living.add(child)
    child.exited.then((ending) => {
      living.delete(child)
      if (stopping && ending.code !== 0) failures.push(`process ${child.pid} ended ${inWords(ending)}`)
    })
    return child
  }
  /** One place, taken by one process after the other. */
  const keepOne = async (): Promise<void> => {
    let hasServed = false
    const onReady = (given: number) => {
      if (hasServed) return
      hasServed = true
      served += 1
      port = given
      first.resolve(given)
      if (served === config.processes) complete.resolve()
    }
    for (let earlyDeaths = 0; !stopping; ) {
      const startedMs = performance.now()
      const child = spawn()
      child.ready.then(onReady)
      const ending = await child.exited
      if (stopping) return
      if (served === 0 && ending.signal === null) {
        first.reject(new StartFailed(ending))
        return
      }
      earlyDeaths = performance.now() - startedMs < earlyMs ? earlyDeaths + 1 : 0
      const delayMs = respawnDelayMs(earlyDeaths)
      log.warn({ pid: child.pid, ...ending, delayMs }, 'a process ended and is replaced')
      if (delayMs > 0) await delay(delayMs, told.signal).catch(() => {})
    }
  }

  keepOne()
  const servedOn = await first.promise
  for (let count = 1; count < config.processes; count += 1) keepOne()

  const kill = () => {
    for (const child of living) child.kill()
  }
  return {
    port: servedOn,
    complete: complete.promise,
    /** Each ends as a single process would; one that does not is killed. */
    stop: async () => {
      stopping = true
      told.abort()
      for (const child of living) child.disconnect()
      const late = setTimeout(kill, config.drainMs + endingMs)
      await Promise.all([...living].map((child) => child.exited))
      clearTimeout(late)
      if (failures.length > 0) throw new Error(failures.join('; '))
    },
    kill,
  }
}
