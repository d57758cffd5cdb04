import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { api, type Person, type Runtime, register, startServer, type TestServer } from '../harness.ts'
import { headOf, sendRaw } from '../http/black-box/wire.ts'

const deadlineMs = 1_000

for (const runtime of ['bun', 'deno'] as const satisfies Runtime[]) {
  describe(`a client that never completes its request, on ${runtime}`, () => {
    let server: TestServer
    let person: Person
    beforeAll(async () => {
      server = await startServer({ runtime, env: { REQUEST_TIMEOUT_MS: String(deadlineMs) } })
      person = await register(api(server.baseUrl))
    })
    afterAll(() => server.stop())

    const head = (headers: Record<string, string>) =>
      headOf('POST', '/api/v1/projects', {
        authorization: `Bearer ${person.token}`,
        'content-type': 'application/json',
        ...headers,
      })

    test('gets 503 at the deadline of the request, wherever it stopped', async () => {
      const clients = {
        'announces a body and sends none': [head({ 'content-length': '100' })],
        'stops in the middle of its body': [head({ 'content-length': '100' }), '{"name":'],
        'stops in the middle of its chunks': [head({ 'transfer-encoding': 'chunked' }), '8\r\n{"name":\r\n'],
      }
      const answers = Object.entries(clients).map(async ([name, parts]) => {
        const startedMs = performance.now()
        const answer = await sendRaw(server.baseUrl, parts).catch(() => undefined)
        const code = /"code":"([^"]+)"/.exec(answer?.body ?? '')?.[1]
        return [name, answer?.status, code, performance.now() - startedMs < deadlineMs + 1_500]
      })
      expect(await Promise.all(answers)).toEqual(
        Object.keys(clients).map((name) => [name, 503, 'request.timeout', true]),
      )
    })
  })
}
