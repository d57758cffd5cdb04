import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { readFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:https'
import type { SiemSettings } from '../../src/siem/settings.ts'
import { createCertificate } from '../harness/rsyslog.ts'
import { runtimes, sendBy } from './send.ts'

let server: Server
let caFile: string
let status = 200
let headers: Record<string, string | string[] | undefined> = {}
let body = ''
beforeAll(async () => {
  const made = await createCertificate()
  caFile = made.caFile
  const [key, cert] = await Promise.all([made.key, made.certificate].map((file) => readFile(file)))
  server = createServer({ key, cert }, (request, response) => {
    headers = request.headers
    request.setEncoding('utf8')
    request.on('data', (chunk) => {
      body += chunk
    })
    request.on('end', () => {
      if (status === 0) request.socket.destroy()
      else response.writeHead(status, { location: '/elsewhere' }).end('an answer')
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
})
afterAll(() => server?.close())
beforeEach(() => {
  status = 200
  body = ''
})

const settings = (more: object = {}): SiemSettings => {
  const { port } = server.address() as { port: number }
  const url = `https://127.0.0.1:${port}/in?index=velro`
  return { kind: 'https', url, authorization: 'Splunk hush', caFile, ...more } as SiemSettings
}

for (const runtime of runtimes) {
  describe(`a receiver by https, from ${runtime}`, () => {
    test('gets a batch as JSON lines, with its authorization', async () => {
      expect(await sendBy(runtime, settings(), 200)).toBe('sent')
      const events = body
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line))
      expect(events.map(({ metadata }) => metadata.sequence)).toEqual(Array.from({ length: 200 }, (_, at) => at + 1))
      expect(headers).toMatchObject({ authorization: 'Splunk hush', 'content-type': 'application/x-ndjson' })
    }, 60_000)

    test('that answers anything but 2xx, ends the connection or is not trusted has no batch', async () => {
      for (status of [302, 400, 413, 500, 0]) {
        body = ''
        expect(await sendBy(runtime, settings(), 1)).toStartWith('failed: ')
        expect(body.split('\n').length).toBe(2)
      }
      status = 200
      body = ''
      expect(await sendBy(runtime, settings({ caFile: undefined }), 1)).toStartWith('failed: ')
      expect(body).toBe('')
    }, 60_000)
  })
}
