import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { createServer as createHttpServer, type RequestListener } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { makeCertificates } from '../harness/postgres-server.ts'

const deno = fileURLToPath(new URL('../../node_modules/deno/deno', import.meta.url))
const fixture = fileURLToPath(new URL('./fixtures/post.ts', import.meta.url))
const commands = { bun: [process.execPath], deno: [deno, 'run', '-A'] } as const

/** The status that the path names; 429 with Retry-After; or no answer. */
const received: string[] = []
const listener: RequestListener = async (message, response) => {
  let text = ''
  for await (const chunk of message) text += chunk
  received.push(`${message.method} ${message.headers['webhook-id']} ${message.headers['content-length']} ${text}`)
  const what = (message.url ?? '').slice(1)
  if (what === 'hang') return
  if (what === 'close') return void response.socket?.destroy()
  response.writeHead(Number(what), { 'retry-after': '7', location: 'https://private.example/' }).end('an answer')
}

// CI installs openssl; elsewhere it may be missing.
describe.skipIf(Bun.which('openssl') === null)('a POST to a URL that a user chose', () => {
  const servers: (ReturnType<typeof createHttpServer> | ReturnType<typeof createHttpsServer>)[] = []
  let folder: string
  let ports: string[]

  beforeAll(async () => {
    folder = await makeCertificates()
    const pem = (name: string) => readFile(join(folder, name))
    const signed = { key: await pem('server.key'), cert: await pem('server.crt') }
    const other = { key: await pem('other.key'), cert: await pem('other.crt') }
    servers.push(createHttpServer(listener), createHttpsServer(signed, listener), createHttpsServer(other, listener))
    ports = await Promise.all(
      servers.map(async (server) => {
        await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()))
        return String((server.address() as AddressInfo).port)
      }),
    )
  })
  afterAll(() => {
    for (const server of servers) {
      server.closeAllConnections()
      server.close()
    }
  })

  for (const runtime of ['bun', 'deno'] as const) {
    test(`on ${runtime} is sent by our own lookup with certificates verified, and follows no redirect`, async () => {
      received.length = 0
      const [command = '', ...args] = commands[runtime]
      const env = { ...process.env, NODE_EXTRA_CA_CERTS: join(folder, 'root.crt'), DENO_NO_UPDATE_CHECK: '1' }
      const { stdout } = await promisify(execFile)(command, [...args, fixture, ...ports], { env })
      const { outcomes, asked } = JSON.parse(stdout)
      expect(outcomes).toEqual({
        plain: '204 7',
        'by its own lookup': '204 7',
        redirect: '302 7',
        busy: '429 7',
        hang: 'TimeoutError',
        'hangs up': 'connection',
        secure: '204 7',
        'another name': 'tls',
        untrusted: 'tls',
        'no TLS': 'tls',
        'a private address': 'refused: address',
      })
      expect(asked).toEqual([
        'hooks.example',
        'localhost',
        'hooks.example',
        'localhost',
        'localhost',
        'private.example',
      ])
      // Each once: no runtime repeats a request whose connection closed.
      expect(received).toEqual(Array.from({ length: 7 }, () => 'POST one 18 {"text":"grüße"}'))
    }, 30_000)
  }
})
