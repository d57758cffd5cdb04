import { expect, test } from 'bun:test'
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const deno = fileURLToPath(new URL('../../node_modules/deno/deno', import.meta.url))
const smoke = fileURLToPath(new URL('./fixtures/smoke.ts', import.meta.url))

/** `sent`: how often the fetch of the runtime sends a POST by itself when a reused connection closes without an answer. */
for (const [runtime, command, args, sent] of [
  ['Bun', process.execPath, [smoke], 1],
  ['Deno', deno, ['run', '-A', smoke], 2],
] as const) {
  test(`on ${runtime} orders, network faults and refused fetches have the same outcomes, and a lost order is sent once`, async () => {
    const env = { ...process.env, NO_COLOR: '1', DENO_NO_UPDATE_CHECK: '1' }
    const { stdout } = await promisify(execFile)(command, args, { env, timeout: 50_000 })
    expect(JSON.parse(stdout)).toEqual({
      fal: [[{ bytes: 'pixels' }], 1],
      'an output: hang': ['timeout', 1],
      'an output: hang in the body': ['timeout', 1],
      'an output: html': ['invalid_output', 1],
      'an output: closed connection': ['unavailable', 1],
      'an order: hang': ['timeout', 0, 1],
      'an order: closed connection': ['unavailable', 0, 1],
      'an order: truncated body': ['unavailable', 0, 1],
      'an order: redirect': ['failed', 0, 1],
      'a lost POST: fetch': ['an error', sent],
      'a lost POST: singleUseFetch': ['an error', 1],
      'singleUseFetch: a closed port': 'NotConnected',
      'singleUseFetch: an unknown host': 'NotConnected',
      'an order at openai: hang': ['timeout', 1, ['provider.order_unclear']],
      'an order at openai: closed connection': ['unavailable', 1, ['provider.order_unclear']],
      'an order at openai: truncated body': ['unavailable', 1, ['provider.order_unclear']],
      openai: [{ bytes: 'pixels' }],
      '127.0.0.1/': 'address',
      'trap.fal.media/': 'address',
      'v3.fal.media/away': 'address',
      'v3.fal.media/large': 'size',
      'v3.fal.media/hang': 'TimeoutError',
      connections: ['v3.fal.media', 'v3.fal.media', 'v3.fal.media'],
      localhost: 'address',
    })
  }, 60_000)
}
