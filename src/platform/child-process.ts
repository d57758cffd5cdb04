import { spawn } from 'node:child_process'
import process from 'node:process'

/** How a process ended: by exit code, by signal, or by failing to start (`error`). */
export type Exit = { readonly code: number | null; readonly signal: string | null; readonly error?: unknown }

/** A child process that runs this same program. */
export type Child = {
  readonly pid: number | undefined
  /** Resolves to the port it listens on. Stays pending if it exits first. */
  readonly ready: Promise<number>
  readonly exited: Promise<Exit>
  /** Closes the channel, which asks the child to shut down. */
  disconnect(): void
  kill(): void
}

/** The parent process, as a child sees it. */
export type Supervisor = {
  reportReady(port: number): void
  /** Called when the parent disconnected or died (kill -9 included). */
  onDisconnect(listener: () => void): void
}

const supervisedVariable = 'VELRO_SUPERVISED'

/** Which process of which supervisor this is. A process that takes the place of another has its number. */
export type ProcessOfSupervisor = { readonly supervisor: string; readonly number: number }

/** Undefined in a process that was not started by `spawnChild`. */
export const findOwnProcess = (env: Readonly<Record<string, string | undefined>>): ProcessOfSupervisor | undefined => {
  const [, supervisor, number] = /^([\w-]+):(\d{1,3})$/.exec(env[supervisedVariable] ?? '') ?? []
  return supervisor === undefined ? undefined : { supervisor, number: Number(number) }
}

const isReadyMessage = (message: unknown): message is { port: number } =>
  typeof message === 'object' && message !== null && typeof (message as { port?: unknown }).port === 'number'

/** Runtime arguments before the program, so that the child runs like this process. */
const runtimeArguments = (): string[] =>
  // Deno needs --unstable-net for shared ports, and offers no way to read the flags it was started with.
  'Deno' in globalThis ? ['run', '-A', '--unstable-net'] : process.execArgv

/**
 * Starts this program again with the same standard output and error, and with `environment` merged over ours. The two share
 * an IPC channel. Its end is the only message to the child, so a child also shuts down when this process is killed.
 */
export const spawnChild = (
  environment: Readonly<Record<string, string>>,
  { supervisor, number }: ProcessOfSupervisor,
): Child => {
  const child = spawn(process.execPath, [...runtimeArguments(), ...process.argv.slice(1)], {
    env: { ...process.env, ...environment, [supervisedVariable]: `${supervisor}:${number}` },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
  return {
    pid: child.pid,
    ready: new Promise((resolve) =>
      child.on('message', (message) => {
        if (isReadyMessage(message)) resolve(message.port)
      }),
    ),
    exited: new Promise((resolve) => {
      child.once('exit', (code, signal) => resolve({ code, signal }))
      child.on('error', (error) => {
        // Also emitted when messaging a running child fails; that child has not ended.
        if (child.pid === undefined) resolve({ code: null, signal: null, error })
      })
    }),
    disconnect: () => {
      if (child.connected) child.disconnect()
    },
    kill: () => {
      child.kill('SIGKILL')
    },
  }
}

/** Undefined in a process that was not started by `spawnChild`. */
export const findSupervisor = (env: Readonly<Record<string, string | undefined>>): Supervisor | undefined => {
  if (env[supervisedVariable] === undefined || process.send === undefined) return undefined
  return {
    reportReady: (port) => {
      // Ignored when the parent is gone; `onDisconnect` reports that.
      if (process.connected) process.send?.({ port }, undefined, undefined, () => {})
    },
    onDisconnect: (listener) => {
      process.once('disconnect', listener)
      if (!process.connected) listener()
    },
  }
}
