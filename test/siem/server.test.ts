import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createServer, type Server } from 'node:http'
import { until } from '../faults/support.ts'
import { rsyslog, startRsyslog, type TestRsyslog } from '../harness/rsyslog.ts'
import { api, register, startServer, type TestServer } from '../harness.ts'

/** Of the processes: events of a person who registers, signs in and out. */
const live = async (server: TestServer) => {
  const client = api(server.baseUrl)
  const person = await register(client)
  const { email, password, token } = person
  await client.post('/api/v1/auth/login', { email, password })
  await client.post('/api/v1/auth/login', { email, password: 'not the password' })
  const { body } = await client.post('/api/v1/projects', { name: 'a secret name' }, { token })
  await client.post('/api/v1/auth/logout', undefined, { token })
  return { person, projectId: body.id as string }
}
const expected = ['account.registered', 'sign_in.succeeded', 'sign_in.failed', 'project.created', 'session.ended']

describe('a server with a receiver of security events', () => {
  let receiver: Server
  let lines: string[] = []
  let status = 200
  beforeAll(async () => {
    receiver = createServer((request, response) => {
      let body = ''
      request.setEncoding('utf8')
      request.on('data', (chunk) => {
        body += chunk
      })
      request.on('end', () => {
        if (status === 200) lines.push(...body.trimEnd().split('\n'))
        response.writeHead(status).end()
      })
    })
    await new Promise<void>((resolve) => receiver.listen(0, '127.0.0.1', resolve))
  })
  afterAll(() => receiver?.close())

  for (const runtime of ['bun', 'deno'] as const)
    test(`sends what people did, without names, addresses of mail and secrets, on ${runtime}`, async () => {
      lines = []
      const { port } = receiver.address() as { port: number }
      const server = await startServer({ runtime, env: { SIEM_URL: `http://127.0.0.1:${port}/in` } })
      try {
        // The receiver is down at first.
        status = 503
        const { person, projectId } = await live(server)
        await until(() => server.output().includes('"siem.failing"'), 'the failure is in the log')
        status = 200
        const codes = () => new Set(lines.map((line) => JSON.parse(line).metadata.event_code))
        await until(() => expected.every((code) => codes().has(code)), 'all events')
        const events = lines.map((line) => JSON.parse(line))
        expect(events.map(({ metadata }) => metadata.sequence)).toEqual(events.map((_, at) => at + 1))
        const created = events.find(({ metadata }) => metadata.event_code === 'project.created')
        expect(created).toMatchObject({
          class_uid: 3004,
          entity: { uid: projectId },
          actor: { user: { uid: person.id } },
        })
        expect(created.src_endpoint).toEqual({ ip: '127.0.0.1' })
        const all = lines.join('\n')
        for (const secret of [person.email, person.password, person.token, person.refreshToken, 'a secret name'])
          expect(all).not.toContain(secret)
      } finally {
        await server.stop()
      }
    }, 60_000)

  test('writes events to standard output where SIEM_URL says so', async () => {
    const server = await startServer({ runtime: 'bun', env: { SIEM_URL: 'stdout:' } })
    try {
      await live(server)
      await until(() => expected.every((code) => server.output().includes(`"event_code":"${code}"`)), 'all events')
    } finally {
      await server.stop()
    }
  }, 60_000)

  describe.skipIf(rsyslog === undefined)('that is a real rsyslog', () => {
    let syslog: TestRsyslog
    beforeAll(async () => {
      syslog = await startRsyslog({ tls: true })
    }, 20_000)
    afterAll(() => syslog?.stop())

    test('by TLS, has all events in order though it was killed and started again, on both runtimes', async () => {
      const env = { SIEM_URL: `syslog+tls://127.0.0.1:${syslog.port}`, SIEM_CA_FILE: syslog.caFile }
      const bun = await startServer({ runtime: 'bun', env })
      const deno = await startServer({ runtime: 'deno', env, connection: bun.connection })
      try {
        await live(bun)
        await until(async () => (await syslog.messages()).length >= expected.length, 'the first events')
        await syslog.stop('SIGKILL')
        await live(deno)
        syslog = await syslog.again()
        await live(bun)
        const events = async () => (await syslog.messages()).map(({ text }) => JSON.parse(text))
        const people = async () => {
          const found = (await events()).filter(({ metadata }) => metadata.event_code === 'session.ended')
          return new Set(found.map(({ metadata }) => metadata.uid)).size
        }
        await until(async () => (await people()) === 3, 'the events of all three')
        const sequences: number[] = (await events()).map(({ metadata }) => metadata.sequence)
        const unique = [...new Set(sequences)]
        expect(unique).toEqual(unique.map((_, at) => at + 1))
      } finally {
        await deno.stop()
        await bun.stop()
      }
    }, 60_000)
  })
})
