import { spawn } from 'node:child_process'
import process from 'node:process'

/** How a process ended: by itself, by a signal, or without ever having begun. */
export type Exit = { readonly code: number | null; readonly signal: string | null; readonly error?: unknown }

/** A process that runs this same program. */
export type Child = {
  readonly pid: number | undefined
  /** The port it serves on. Never settles when it ends before. */
  readonly ready: Promise<number>
  readonly exited: Promise<Exit>
  /** Lets go of it, which it takes as being told to end. */
  disconnect(): void
  kill(): void
}

/** The one that spawned this process, as seen from here. */
export type Supervisor = {
  reportReady(port: number): void
  /** It let go of us, or is gone (kill -9 included). */
  onDisconnect(listener: () => void): void
}

const mark = 'VELRO_SUPERVISED'

const isReadyMessage = (message: unknown): message is { port: number } =>
  typeof message === 'object' && message !== null && typeof (message as { port?: unknown }).port === 'number'

/** What goes before the program, so that it is run as we are. */
const runtimeArguments = (): string[] =>
  // Deno holds a shared port to be unstable, and has no way to ask with which flags it was started.
  'Deno' in globalThis ? ['run', '-A', '--unstable-net'] : process.execArgv

/**
 * Runs this program once more, with our environment and `environment` over it, on the same standard output and error.
 * Between the two is a channel, and its end is the one message to a child: so it ends too when we are killed.
 */
export const spawnChild = (environment: Readonly<Record<string, string>>): Child => {
  const child = spawn(process.execPath, [...runtimeArguments(), ...process.argv.slice(1)], {
    env: { ...process.env, ...environment, [mark]: '1' },
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
        // Also told of a child that runs and could not be reached: that one is yet to end.
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

/** Undefined in a process that somebody else started. */
export const findSupervisor = (env: Readonly<Record<string, string | undefined>>): Supervisor | undefined => {
  if (env[mark] === undefined || process.send === undefined) return undefined
  return {
    reportReady: (port) => {
      // Nobody listens any more when it is gone; `onDisconnect` tells of that.
      if (process.connected) process.send?.({ port }, undefined, undefined, () => {})
    },
    onDisconnect: (listener) => {
      process.once('disconnect', listener)
      if (!process.connected) listener()
    },
  }
}
