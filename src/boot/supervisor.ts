import { randomUUID } from 'node:crypto'
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

/** A process that ends sooner than this counts as an early exit. */
const earlyMs = 10_000
/** How long a process may take to end after its drain time. */
const endingMs = 5_000

/** The pause before a process is started again after `earlyExits` early exits in a row. */
export const respawnDelayMs = (earlyExits: number): number =>
  earlyExits < 2 ? 0 : Math.min(5_000, 100 * 2 ** (earlyExits - 1))

const inWords = ({ code, signal, error }: Exit): string =>
  signal !== null ? `by ${signal}` : code !== null ? `with exit code ${code}` : `before it began: ${error}`

/**
 * Serves in `config.processes` processes on one port, and keeps that many running: one that ends is replaced at once; after
 * repeated early exits the pauses grow to 5 s. They end with this process, also when that is killed.
 *
 * Resolves when the first serves; `complete` does when all do. The first starts alone, so that a reason not to start is
 * reported once: `StartFailed`.
 */
export const startInstances = async (config: Config, { connection, secret }: BackingDatabase, log: Log) => {
  const living = new Set<Child>()
  const failures: string[] = []
  const first = Promise.withResolvers<number>()
  const complete = Promise.withResolvers<void>()
  const stopSignal = new AbortController()
  let stopping = false
  let { port } = config
  let served = 0

  const supervisor = randomUUID()
  const spawn = (number: number): Child => {
    const environment = { ...connectionEnvironment(connection), SECRET: secret, PORT: String(port) }
    const child = spawnChild(environment, { supervisor, number })
    living.add(child)
    child.exited.then((ending) => {
      living.delete(child)
      if (stopping && ending.code !== 0) failures.push(`process ${child.pid} ended ${inWords(ending)}`)
    })
    return child
  }
  /** Runs one process after the other. */
  const keepRunning = async (number: number): Promise<void> => {
    let hasServed = false
    const onReady = (given: number) => {
      if (hasServed) return
      hasServed = true
      served += 1
      port = given
      first.resolve(given)
      if (served === config.processes) complete.resolve()
    }
    for (let earlyExits = 0; !stopping; ) {
      const startedMs = performance.now()
      const child = spawn(number)
      child.ready.then(onReady)
      const ending = await child.exited
      if (stopping) return
      if (served === 0 && ending.signal === null) {
        first.reject(new StartFailed(ending))
        return
      }
      earlyExits = performance.now() - startedMs < earlyMs ? earlyExits + 1 : 0
      const delayMs = respawnDelayMs(earlyExits)
      log.warn({ pid: child.pid, ...ending, delayMs }, 'process ended, starting another')
      if (delayMs > 0) await delay(delayMs, stopSignal.signal).catch(() => {})
    }
  }

  keepRunning(0)
  const servedOn = await first.promise
  for (let count = 1; count < config.processes; count += 1) keepRunning(count)

  const kill = () => {
    for (const child of living) child.kill()
  }
  return {
    port: servedOn,
    complete: complete.promise,
    /** Each process shuts down as a single one would; one that does not end in time is killed. */
    stop: async () => {
      stopping = true
      stopSignal.abort()
      for (const child of living) child.disconnect()
      const late = setTimeout(kill, config.drainDelayMs + config.drainMs + endingMs)
      await Promise.all([...living].map((child) => child.exited))
      clearTimeout(late)
      if (failures.length > 0) throw new Error(failures.join('; '))
    },
    kill,
  }
}
