/**
 * What hostile clients cost others: the latency of another person's warm checks and the lag of the server's event loop, without
 * an attack, with 16 connections of it, and with the same attack on another program of the machine, which answers at once: in
 * turns, so that the cost to the machine can be told from the cost to the server.
 * `bun test/faults/hostile-bodies.ts [--runtime bun|deno] [--rounds N] [--seconds S] [--only NAME] [--directory CHECKOUT]`
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { createHash, randomUUID } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { reapAll, reapProcess } from '../harness/reaper.ts'
import { api, type Person, type Runtime, register, startServer } from '../harness.ts'
import { attacks, type World } from './hostile/attacks.ts'

const { values } = parseArgs({
  options: {
    runtime: { type: 'string', default: 'bun' },
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '4' },
    connections: { type: 'string', default: '16' },
    only: { type: 'string' },
    directory: { type: 'string' },
  },
})
const [rounds, seconds] = [Number(values.rounds), Number(values.seconds)]

const fileOf = (path: string) => fileURLToPath(new URL(path, import.meta.url))
const server = await startServer({
  runtime: values.runtime as Runtime,
  entry: fileOf('hostile/lag-probe.ts'),
  // An attack is larger than any budget, and limits are not the subject here.
  env: { LIMITS: 'off', MAIN: `${values.directory ?? fileOf('../..')}/src/main.ts` },
})
const client = api(server.baseUrl)
const [victim, member] = await Promise.all([register(client), register(client)])
const check = async (person: Person, id: string) => {
  const startedMs = performance.now()
  const { status } = await client.post(
    '/api/v1/authorization/check',
    { action: 'read', resource: { type: 'project', id } },
    person,
  )
  if (status !== 200) failures += 1
  return performance.now() - startedMs
}
let failures = 0
const project = (await client.post('/api/v1/projects', { name: 'Own' }, victim)).body.id as string
const unhurried = async () => {
  for (let count = 0; count < 200; count += 1) await check(victim, project)
}
await unhurried()

const [head, payload] = member.token.split('.')
const forged = () => `${head}.${payload}.${createHash('sha512').update(randomUUID()).digest('base64url')}`
const world: World = { token: member.token, forged }

const quantile = (sorted: readonly number[], q: number) =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? 0
const describe = (numbers: readonly number[]) => {
  const sorted = numbers.toSorted((a, b) => a - b)
  return { p50: quantile(sorted, 0.5), p99: quantile(sorted, 0.99), max: sorted.at(-1) ?? 0, count: sorted.length }
}

type Window = { latencies: number[]; fromMs: number; untilMs: number }

/** Checks of another person for some seconds, on four connections. */
const observe = async (): Promise<Window> => {
  const fromMs = Date.now()
  const endsAt = fromMs + seconds * 1_000
  const latencies: number[] = []
  const one = async () => {
    while (Date.now() < endsAt) {
      latencies.push(await check(victim, project))
      await Bun.sleep(3)
    }
  }
  await Promise.all([one(), one(), one(), one()])
  return { latencies, fromMs, untilMs: Date.now() }
}

type Tick = { lateMs: number; usedMs: number }

const ticksIn = ({ fromMs, untilMs }: Window): Tick[] =>
  [...server.output().matchAll(/^TICKS (\d+) (.*)$/gm)].flatMap(([, at, ticks]) =>
    Number(at) >= fromMs + 300 && Number(at) <= untilMs
      ? (ticks ?? '').split(' ').map((tick) => {
          const [lateMs = 0, usedMs = 0] = tick.split('/').map(Number)
          return { lateMs, usedMs }
        })
      : [],
  )

const startAttack = async (baseUrl: string, name: string): Promise<{ process: ChildProcess; counts(): string }> => {
  const child = spawn(process.execPath, [fileOf('hostile/attacker.ts'), baseUrl, name, values.connections], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  reapProcess(child.pid as number)
  child.stdin.end(JSON.stringify({ token: world.token, forged: Array.from({ length: 5_000 }, forged) }))
  let text = ''
  child.stdout.on('data', (chunk) => {
    text += chunk
  })
  for (const giveUpAt = Date.now() + 10_000; !text.includes('started') && Date.now() < giveUpAt; ) await Bun.sleep(20)
  return { process: child, counts: () => text.trim().split('\n').at(-1) ?? '' }
}

const fixed = (number: number) => number.toFixed(1).padStart(7)
const startControl = async () => {
  const child = spawn(process.execPath, [fileOf('hostile/control.ts')], { stdio: ['ignore', 'pipe', 'inherit'] })
  reapProcess(child.pid as number)
  const port = await new Promise<string>((resolve) =>
    child.stdout.once('data', (chunk) => resolve(String(chunk).trim())),
  )
  return { baseUrl: `http://127.0.0.1:${port}`, stop: () => child.kill('SIGTERM') }
}

const control = await startControl()
console.log(`${values.runtime}, ${values.connections} connections, ${rounds} rounds of ${seconds} s, milliseconds`)
for (const name of Object.keys(attacks)) {
  if (values.only !== undefined && !name.includes(values.only)) continue
  const off: Window[] = []
  const on: Window[] = []
  const elsewhere: Window[] = []
  let counts = ''
  failures = 0
  for (let round = 0; round < rounds; round += 1) {
    await unhurried()
    off.push(await observe())
    for (const [baseUrl, windows] of [
      [control.baseUrl, elsewhere],
      [server.baseUrl, on],
    ] as const) {
      const attack = await startAttack(baseUrl, name)
      windows.push(await observe())
      const ended = new Promise((resolve) => attack.process.once('close', resolve))
      attack.process.kill('SIGTERM')
      await ended
      counts = attack.counts()
    }
  }
  const row = (label: string, windows: readonly Window[]) => {
    const latency = describe(windows.flatMap(({ latencies }) => latencies))
    const ticks = windows.flatMap(ticksIn)
    const late = describe(ticks.map(({ lateMs }) => lateMs))
    const used = describe(ticks.map(({ usedMs }) => usedMs))
    const seconds = windows.reduce((sum, { fromMs, untilMs }) => sum + untilMs - fromMs - 300, 0) / 1_000
    const cores = ticks.reduce((sum, { usedMs }) => sum + usedMs, 0) / seconds / 1_000
    console.log(
      `  ${label}  check P50 ${fixed(latency.p50)} P99 ${fixed(latency.p99)} max ${fixed(latency.max)} of ${latency.count};` +
        ` lag P50 ${fixed(late.p50)} P99 ${fixed(late.p99)} max ${fixed(late.max)};` +
        ` busy for P99 ${fixed(used.p99)} max ${fixed(used.max)}; cores ${cores.toFixed(2)}`,
    )
    return latency
  }
  console.log(`${name}: ${counts}`)
  row('without  ', off)
  const machine = row('elsewhere', elsewhere)
  const attacked = row('with     ', on)
  console.log(
    `  the attack on the server changes P99 by ${fixed(attacked.p99 - machine.p99)}; failed checks: ${failures}`,
  )
}
control.stop()
await server.stop()
await reapAll()
process.exit(0)
