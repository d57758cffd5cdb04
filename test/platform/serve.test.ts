import { afterEach, describe, expect, test } from 'bun:test'
import { type ChildProcess, spawn } from 'node:child_process'
import net from 'node:net'
import { fileURLToPath } from 'node:url'
import { until } from '../faults/support.ts'
import { forgetProcess, reapProcess } from '../harness/reaper.ts'

const pathOf = (path: string) => fileURLToPath(new URL(path, import.meta.url))
const commands = {
  bun: [process.execPath],
  deno: [pathOf('../../node_modules/deno/deno'), 'run', '-A'],
} as const
/** Longer than any test, so a stop that waits for the grace period is noticed. */
const graceMs = 120_000

for (const [runtime, [command, ...args]] of Object.entries(commands)) {
  describe(`a server on ${runtime}`, () => {
    const started: ChildProcess[] = []
    afterEach(() => {
      for (const child of started.splice(0)) child.kill('SIGKILL')
    })

    const start = async (hostname = '127.0.0.1', wrapper: readonly string[] = []) => {
      const script = [command, ...args, pathOf('fixtures/serve-process.ts'), String(graceMs), hostname]
      const [program, ...rest] = [...wrapper, ...script] as [string, ...string[]]
      const child = spawn(program, rest, {
        stdio: ['ignore', 'pipe', 'pipe'],
        env: { ...process.env, NO_COLOR: '1', DENO_NO_UPDATE_CHECK: '1' },
      })
      started.push(child)
      reapProcess(child.pid as number)
      let output = ''
      for (const stream of [child.stdout, child.stderr]) stream.on('data', (piece) => (output += piece))
      let code: number | null | undefined
      child.once('close', (given) => {
        code = given
        forgetProcess(child.pid as number)
      })
      await until(() => /port \d+/.test(output), 'it serves')
      const port = Number(/port (\d+)/.exec(output)?.[1])
      return {
        port,
        url: `http://127.0.0.1:${port}`,
        tellToStop: async () => {
          child.kill('SIGTERM')
          await until(() => output.includes('stopping'), 'it received the signal')
          // Enough time for a server that does not wait.
          await Bun.sleep(1_000)
        },
        ended: async () => {
          await until(() => code !== undefined, 'it ends')
          return code
        },
      }
    }
    const begin = async (url: string) => {
      const { body } = await fetch(url)
      const reader = (body as ReadableStream<Uint8Array>).getReader()
      const pieces = [(await reader.read()).value]
      /** The complete output after the exit. */
      return async () => {
        for (let piece = await reader.read(); !piece.done; piece = await reader.read()) pieces.push(piece.value)
        return pieces.map((piece) => new TextDecoder().decode(piece)).join('')
      }
    }

    const isAnswering = (host: string, port: number) =>
      fetch(`http://${host}:${port}/nothing`).then(
        () => true,
        () => false,
      )

    test('listens on IPv4 and IPv6 where no address is named', async () => {
      const { port } = await start('')
      expect([await isAnswering('127.0.0.1', port), await isAnswering('[::1]', port)]).toEqual([true, true])
    })

    test.skipIf(process.platform !== 'linux')(
      'listens on IPv4 where no address is named and the kernel has no IPv6',
      async () => {
        const { port } = await start('', [process.execPath, pathOf('fixtures/without-ipv6.ts')])
        expect([await isAnswering('127.0.0.1', port), await isAnswering('[::1]', port)]).toEqual([true, false])
      },
    )

    test('that is stopping completes started responses and keeps serving meanwhile', async () => {
      const server = await start()
      const begun = [await begin(`${server.url}/held`), await begin(`${server.url}/measured`)]
      await server.tellToStop()
      expect(await (await fetch(`${server.url}/release`)).text()).toBe('released')
      for (const whole of begun) expect(await whole()).toBe('halfhalf')
      expect(await server.ended()).toBe(0)
    })

    test('that is stopping sends a byte body completely to a slow client', async () => {
      const server = await start()
      const socket = net.connect(server.port, '127.0.0.1')
      let received = 0
      const head = await new Promise<string>((resolve, reject) => {
        socket.once('error', reject)
        socket.once('data', (piece) => {
          socket.pause()
          received = piece.length
          resolve(piece.toString('latin1').split('\r\n\r\n')[0] as string)
        })
        socket.write('GET /bytes HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n')
      })
      await server.tellToStop()
      socket.on('data', (piece) => {
        received += piece.length
      })
      socket.resume()
      await until(() => socket.destroyed, 'the answer ends')
      expect(received).toBe(head.length + 4 + 32 * 1_048_576)
      expect(await server.ended()).toBe(0)
    })

    test('that is stopping does not wait for finished responses: no body, a failed body, a disconnected client', async () => {
      const server = await start()
      for (const [method, path] of [
        ['GET', '/nothing'],
        ['GET', '/unchanged'],
        ['HEAD', '/nothing'],
        ['HEAD', '/measured'],
        ['HEAD', '/bytes'],
      ] as const) {
        await (await fetch(server.url + path, { method })).bytes()
      }
      const broken = await begin(`${server.url}/broken`)
      await fetch(`${server.url}/release`)
      await expect(broken()).rejects.toThrow()
      const leaving = new AbortController()
      const left = await fetch(`${server.url}/held`, { signal: leaving.signal })
      await (left.body as ReadableStream<Uint8Array>).getReader().read()
      leaving.abort()
      await server.tellToStop()
      expect(await server.ended()).toBe(0)
    })
  })
}
