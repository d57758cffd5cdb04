import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { SiemSettings } from '../../src/siem/settings.ts'

export const runtimes = ['bun', 'deno'] as const

const commands = {
  bun: [process.execPath],
  deno: [fileURLToPath(new URL('../../node_modules/deno/deno', import.meta.url)), 'run', '-A'],
} as const

/** What the process of a runtime says about a batch. */
export const sendBy = async (runtime: keyof typeof commands, settings: SiemSettings, count: number, length = 10) => {
  const [command, ...args] = commands[runtime]
  const file = fileURLToPath(new URL('send-process.ts', import.meta.url))
  const child = spawn(command, [...args, file, JSON.stringify(settings), String(count), String(length)], {
    env: { PATH: process.env['PATH'], DENO_NO_UPDATE_CHECK: '1', NO_COLOR: '1' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += chunk))
  await new Promise((resolve) => child.once('close', resolve))
  return output.trim()
}
