import { afterAll, beforeEach, describe, expect, test } from 'bun:test'
import { FetchRefused, type Resolve } from '../../src/platform/safe-fetch.ts'
import { createSafePost, type Posting } from '../../src/platform/safe-post.ts'
import {
  closeConnection,
  connectToFake,
  hang,
  hangInBody,
  json,
  startFakeServer,
  status,
  truncated,
} from '../providers/fake-server.ts'

const server = await startFakeServer()
afterAll(() => server.close())

const names: Record<string, string[]> = {
  'hooks.example': ['93.184.215.14', '2606:2800:21f:cb07:6820:80da:af6b:8b2c'],
  'private.example': ['10.0.0.7'],
  'mixed.example': ['93.184.215.14', '127.0.0.1'],
  'mapped.example': ['::ffff:127.0.0.1'],
  'nowhere.example': [],
}
const asked: string[] = []
const resolve: Resolve = async (name) => {
  asked.push(name)
  return names[name] ?? []
}
const { connect, connections } = connectToFake(server)
const safePost = createSafePost({ resolve, connect })
const unconnected = createSafePost({
  resolve,
  connect: (url) => {
    throw new Error(`A connection to ${url.hostname} was attempted`)
  },
})
const posting = (more: Partial<Posting> = {}): Posting => ({
  body: '{"text":"grüße"}',
  headers: { 'content-type': 'application/json', 'webhook-id': 'one' },
  signal: AbortSignal.timeout(10_000),
  internalHosts: [],
  ...more,
})
const refusalOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => 'sent',
    (error: unknown) => (error instanceof FetchRefused ? error.reason : error),
  )

beforeEach(() => {
  for (const list of [asked, connections, server.received]) list.length = 0
})

test('a POST is sent to a checked address, with its body and headers and nothing else', async () => {
  server.on('POST /in?a=b', json({ ignored: true }, 202, { 'retry-after': '7' }))
  expect(await safePost('https://hooks.example:8443/in?a=b', posting())).toEqual({ status: 202, retryAfter: '7' })
  expect(connections).toEqual([{ host: 'hooks.example', addresses: names['hooks.example'] as string[] }])
  const [received] = server.received
  expect(received?.body).toEqual({ text: 'grüße' })
  const { host, connection: _, ...headers } = received?.headers ?? {}
  expect([host as string, headers as object]).toEqual([
    'hooks.example:8443',
    { 'content-type': 'application/json', 'webhook-id': 'one', 'content-length': '18' },
  ])
})

describe('a POST is refused before any connection', () => {
  test('when the URL is not https on port 443 or 8443, or has credentials or a fragment', async () => {
    for (const url of [
      'http://hooks.example/',
      'https://hooks.example:22/',
      'https://hooks.example:5432/',
      'https://hooks.example:8080/',
      'https://me@hooks.example/',
      'https://me:secret@hooks.example/',
      'https://:secret@hooks.example/',
      'https://hooks.example/#fragment',
      'ftp://hooks.example/',
      'file:///etc/passwd',
      'data:application/json,{}',
      'javascript:alert(1)',
      '//hooks.example/',
      'hooks.example',
      '',
      `https://hooks.example/${'a'.repeat(2_048)}`,
    ]) {
      expect([url.slice(0, 60), await refusalOf(unconnected(url, posting()))]).toEqual([url.slice(0, 60), 'url'])
    }
    expect(asked).toEqual([])
  })

  test('when the host is an address that is not public, in any spelling', async () => {
    for (const host of [
      '127.0.0.1',
      '127.1',
      '2130706433',
      '0x7f.0.0.1',
      '0177.0.0.1',
      '169.254.169.254',
      '10.0.0.1',
      '100.64.0.1',
      '0.0.0.0',
      '224.0.0.1',
      '255.255.255.255',
      '[::1]',
      '[::]',
      '[::ffff:127.0.0.1]',
      '[64:ff9b::7f00:1]',
      '[2002:7f00:1::]',
      '[fd00:ec2::254]',
      '[fe80::1]',
    ]) {
      expect([host, await refusalOf(unconnected(`https://${host}/`, posting()))]).toEqual([host, 'address'])
    }
    expect(asked).toEqual([])
  })

  test('when any address of the host is not public, or it has none', async () => {
    for (const host of ['private.example', 'mixed.example', 'mapped.example', 'nowhere.example']) {
      expect([host, await refusalOf(unconnected(`https://${host}/`, posting()))]).toEqual([host, 'address'])
    }
  })

  test('when the deadline passes during the lookup', async () => {
    const hanging = createSafePost({ resolve: () => new Promise(() => {}), connect })
    const work = hanging('https://hooks.example/', posting({ signal: AbortSignal.timeout(20) }))
    expect(((await refusalOf(work)) as Error).name).toBe('TimeoutError')
    expect(connections).toEqual([])
  })
})

test('a redirect is an answer, and is not followed', async () => {
  for (const code of [301, 302, 303, 307, 308]) {
    server.on('POST /moved', status(code, { location: 'https://private.example/' }))
    expect((await safePost('https://hooks.example/moved', posting())).status).toBe(code)
  }
  expect(asked).not.toContain('private.example')
  expect(server.received).toHaveLength(5)
})

test('an internal host is reached by http at any address, but only at its port and where it is named', async () => {
  server.on('POST /in', status(204))
  const internalHosts = ['private.example:8080', '127.0.0.1:9000']
  expect((await safePost('http://private.example:8080/in', posting({ internalHosts }))).status).toBe(204)
  expect((await safePost('http://127.0.0.1:9000/in', posting({ internalHosts }))).status).toBe(204)
  expect(connections).toEqual([
    { host: 'private.example', addresses: ['10.0.0.7'] },
    { host: '127.0.0.1', addresses: ['127.0.0.1'] },
  ])
  for (const [url, refusal] of [
    ['http://private.example/in', 'url'],
    ['http://private.example:8081/in', 'url'],
    ['https://private.example/in', 'address'],
    ['http://127.0.0.1:9001/in', 'url'],
    ['http://me@127.0.0.1:9000/in', 'url'],
    ['http://private.example.evil.example:8080/in', 'url'],
  ] as const) {
    expect([url, await refusalOf(unconnected(url, posting({ internalHosts })))]).toEqual([url, refusal])
  }
})

test('the status is known although the body of the answer is endless, broken off or late', async () => {
  server.on('POST /endless', (response) => {
    response.writeHead(200)
    const more = () => response.writable && response.write('x'.repeat(65_536), () => setTimeout(more, 1))
    more()
  })
  expect((await safePost('https://hooks.example/endless', posting())).status).toBe(200)
  server.on('POST /cut', truncated('application/json'))
  expect((await safePost('https://hooks.example/cut', posting())).status).toBe(200)
  server.on('POST /late', hangInBody('application/json'))
  const late = safePost('https://hooks.example/late', posting({ signal: AbortSignal.timeout(100) }))
  expect((await late).status).toBe(200)
})

test('a receiver that does not answer ends with the deadline, and one that hangs up with an error', async () => {
  server.on('POST /hang', hang)
  const work = safePost('https://hooks.example/hang', posting({ signal: AbortSignal.timeout(100) }))
  expect(((await refusalOf(work)) as Error).name).toBe('TimeoutError')
  server.on('POST /close', closeConnection)
  expect(await refusalOf(safePost('https://hooks.example/close', posting()))).toBeInstanceOf(Error)
})
