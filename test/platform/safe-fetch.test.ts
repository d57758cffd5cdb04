import { afterAll, beforeEach, describe, expect, test } from 'bun:test'
import { type AddressInfo, createServer } from 'node:net'
import { gzipSync } from 'node:zlib'
import {
  connectTo,
  createSafeFetch,
  type FetchLimits,
  FetchRefused,
  type Resolve,
} from '../../src/platform/safe-fetch.ts'
import {
  closeConnection,
  connectToFake,
  file,
  hang,
  hangInBody,
  startFakeServer,
  status,
  truncated,
  truncatedWithoutLength,
} from '../providers/fake-server.ts'

const server = await startFakeServer()
afterAll(() => server.close())

const names: Record<string, string[]> = {
  'cdn.example': ['93.184.215.14', '2606:2800:21f:cb07:6820:80da:af6b:8b2c'],
  'v3.cdn.example': ['93.184.215.15'],
}
const asked: string[] = []
const resolve: Resolve = async (name) => {
  asked.push(name)
  return names[name] ?? []
}
const { connect, connections } = connectToFake(server)
const safeFetch = createSafeFetch({ resolve, connect })
/** A connect that fails the test: no connection may be made. */
const unconnected = createSafeFetch({
  resolve,
  connect: (url) => {
    throw new Error(`A connection to ${url.hostname} was attempted`)
  },
})

const limits = (more: Partial<FetchLimits> = {}): FetchLimits => ({
  hosts: ['cdn.example'],
  types: ['image/png'],
  maxBytes: 1_000,
  signal: AbortSignal.timeout(10_000),
  ...more,
})
const refusalOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => 'fetched',
    (error: unknown) => (error instanceof FetchRefused ? error.reason : error),
  )
const outcome = (work: Promise<unknown>) => work.catch((error: unknown) => error)

beforeEach(() => {
  for (const list of [asked, connections, server.received]) list.length = 0
})

test('an allowed URL is fetched completely from a checked address, without credentials, cookies or a user agent', async () => {
  server.on('GET /a.png?b=c', file('pixels', 'image/png; charset=binary'))
  expect(await safeFetch('https://v3.cdn.example/a.png?b=c', limits())).toEqual(new TextEncoder().encode('pixels'))
  expect(connections).toEqual([{ host: 'v3.cdn.example', addresses: ['93.184.215.15'] }])
  expect(asked).toEqual(['v3.cdn.example'])
  const { host, accept, ...rest } = server.received[0]?.headers ?? {}
  expect({ host, accept }).toEqual({ host: 'v3.cdn.example', accept: 'image/png' })
  expect(Object.keys(rest).toSorted()).toEqual(['accept-encoding', 'connection'])
})

describe('a fetch is refused before any connection', () => {
  test('when the URL is not https on port 443 without credentials', async () => {
    for (const url of [
      'http://cdn.example/a.png',
      'https://cdn.example:8443/a.png',
      'https://me@cdn.example/a.png',
      'https://me:secret@cdn.example/a.png',
      'ftp://cdn.example/a.png',
      'file:///etc/passwd',
      'data:image/png;base64,AAAA',
      'blob:https://cdn.example/1',
      '//cdn.example/a.png',
      'cdn.example/a.png',
      '',
    ]) {
      expect([url, await refusalOf(unconnected(url, limits()))]).toEqual([url, 'url'])
    }
    expect(asked).toEqual([])
  })

  test('when the host is not allowed, even before its lookup', async () => {
    for (const host of [
      'example',
      'evilcdn.example',
      'cdn.example.evil',
      'cdn.example.',
      'localhost',
      'metadata.google.internal',
    ]) {
      expect([host, await refusalOf(unconnected(`https://${host}/`, limits()))]).toEqual([host, 'host'])
    }
    expect(await refusalOf(unconnected('https://cdn.example/', limits({ hosts: [] })))).toBe('host')
    expect(asked).toEqual([])
  })

  test('when the host is a loopback, private or cloud metadata address in any spelling, even when it is an allowed host', async () => {
    for (const [host, canonical] of [
      ['127.0.0.1', '127.0.0.1'],
      ['127.1', '127.0.0.1'],
      ['2130706433', '127.0.0.1'],
      ['0x7f.0.0.1', '127.0.0.1'],
      ['0177.0.0.1', '127.0.0.1'],
      ['169.254.169.254', '169.254.169.254'],
      ['10.0.0.1', '10.0.0.1'],
      ['[::1]', '::1'],
      ['[::ffff:127.0.0.1]', '::ffff:7f00:1'],
      ['[64:ff9b::7f00:1]', '64:ff9b::7f00:1'],
      ['[fd00:ec2::254]', 'fd00:ec2::254'],
    ] as const) {
      expect([host, await refusalOf(unconnected(`https://${host}/`, limits()))]).toEqual([host, 'host'])
      const allowing = limits({ hosts: [canonical] })
      expect([host, await refusalOf(unconnected(`https://${host}/`, allowing))]).toEqual([host, 'address'])
    }
  })

  test('when one of the addresses of the host is not public, and when the host has no address', async () => {
    for (const address of [
      '127.0.0.1',
      '169.254.169.254',
      '10.1.2.3',
      '192.168.0.1',
      '::1',
      'fd00::1',
      '::ffff:10.0.0.1',
    ]) {
      names['trap.cdn.example'] = [address]
      expect([address, await refusalOf(unconnected('https://trap.cdn.example/', limits()))]).toEqual([
        address,
        'address',
      ])
      names['trap.cdn.example'] = ['93.184.215.14', address]
      expect([address, await refusalOf(unconnected('https://trap.cdn.example/', limits()))]).toEqual([
        address,
        'address',
      ])
    }
    names['trap.cdn.example'] = []
    expect(await refusalOf(unconnected('https://trap.cdn.example/', limits()))).toBe('address')
  })

  test('when its signal has aborted, even while the lookup hangs', async () => {
    const over = new Error('over')
    expect(await outcome(unconnected('https://cdn.example/', limits({ signal: AbortSignal.abort(over) })))).toBe(over)
    const stuck = createSafeFetch({ resolve: () => new Promise(() => {}), connect })
    const signal = AbortSignal.timeout(20)
    expect(await outcome(stuck('https://cdn.example/', limits({ signal })))).toBe(signal.reason)
  })
})

describe('a redirect', () => {
  const redirect = (location: string, code = 302) => status(code, { location })

  test('is followed up to three times, with every check repeated', async () => {
    server.on('GET /1', redirect('/2', 301))
    server.on('GET /2', redirect('https://v3.cdn.example/3', 307))
    server.on('GET /3', redirect('4', 308))
    server.on('GET /4', file('pixels', 'image/png'))
    expect((await safeFetch('https://cdn.example/1', limits())).byteLength).toBe(6)
    expect(asked).toEqual(['cdn.example', 'cdn.example', 'v3.cdn.example', 'v3.cdn.example'])
    server.on('GET /0', redirect('/1', 303))
    expect(await refusalOf(safeFetch('https://cdn.example/0', limits()))).toBe('redirects')
  })

  test('to an address, host or scheme that is not allowed is refused without connecting to it', async () => {
    names['inside.cdn.example'] = ['10.0.0.7']
    for (const [location, reason] of [
      ['https://127.0.0.1/', 'address'],
      ['https://169.254.169.254/latest/meta-data/', 'address'],
      ['https://inside.cdn.example/', 'address'],
      ['https://evil.example/', 'host'],
      ['http://cdn.example/', 'url'],
      ['//169.254.169.254/', 'address'],
      ['https://me:secret@cdn.example/', 'url'],
      ['https://[', 'url'],
    ] as const) {
      connections.length = 0
      server.on('GET /away', redirect(location))
      const allowing = limits({ hosts: ['cdn.example', '127.0.0.1', '169.254.169.254'] })
      expect([location, await refusalOf(safeFetch('https://cdn.example/away', allowing))]).toEqual([location, reason])
      expect(connections.map(({ host }) => host)).toEqual(['cdn.example'])
    }
  })

  test('to the same host looks it up again and is refused when it now resolves to a private address', async () => {
    let lookups = 0
    const rebinding = createSafeFetch({
      resolve: async () => (lookups++ === 0 ? ['93.184.215.14'] : ['127.0.0.1']),
      connect,
    })
    server.on('GET /again', redirect('/again'))
    expect(await refusalOf(rebinding('https://cdn.example/again', limits()))).toBe('address')
    expect(connections).toEqual([{ host: 'cdn.example', addresses: ['93.184.215.14'] }])
  })

  test('without a Location header is refused by its status', async () => {
    server.on('GET /nowhere', status(302))
    expect(await refusalOf(safeFetch('https://cdn.example/nowhere', limits()))).toBe('status')
  })
})

test('a large response arrives complete and in order', async () => {
  const bytes = Buffer.alloc(5_000_001)
  for (let at = 0; at + 4 <= bytes.length; at += 4) bytes.writeUInt32LE(at, at)
  server.on('GET /a.png', file(bytes, 'image/png'))
  const fetched = await safeFetch('https://cdn.example/a.png', limits({ maxBytes: bytes.length }))
  expect(bytes.equals(fetched)).toBeTrue()
})

describe('a response is refused', () => {
  const url = 'https://cdn.example/a.png'

  test('when it is larger than the limit, with or without a Content-Length', async () => {
    server.on('GET /a.png', (response) => {
      response.writeHead(200, { 'content-type': 'image/png', 'content-length': '1001' }).flushHeaders()
    })
    expect(await refusalOf(safeFetch(url, limits()))).toBe('size')
    server.on('GET /a.png', (response) => {
      response.writeHead(200, { 'content-type': 'image/png' })
      const timer = setInterval(() => response.write(new Uint8Array(400)), 1)
      response.on('close', () => clearInterval(timer))
    })
    expect(await refusalOf(safeFetch(url, limits()))).toBe('size')
    server.on('GET /a.png', file(new Uint8Array(1_000), 'image/png'))
    expect((await safeFetch(url, limits())).byteLength).toBe(1_000)
  })

  test('when its type is missing or not accepted, or its content is compressed', async () => {
    for (const type of ['text/html', 'image/svg+xml', 'image/pngx', 'image', '']) {
      server.on('GET /a.png', file('<script>', type))
      expect([type, await refusalOf(safeFetch(url, limits()))]).toEqual([type, 'type'])
    }
    server.on('GET /a.png', file(gzipSync(new Uint8Array(100)), 'image/png', { 'content-encoding': 'gzip' }))
    expect(await refusalOf(safeFetch(url, limits()))).toBe('type')
  })

  test('when its status is not 200, and the error carries the status', async () => {
    for (const code of [204, 206, 304, 403, 404, 500, 503]) {
      server.on('GET /a.png', status(code, { 'retry-after': '7', 'content-type': 'image/png' }))
      const error = await outcome(safeFetch(url, limits()))
      expect(error).toMatchObject({ reason: 'status', status: code, retryAfter: '7' })
    }
  })

  test('when it is partial or ends early', async () => {
    for (const act of [truncated('image/png'), truncatedWithoutLength('image/png'), closeConnection]) {
      server.on('GET /a.png', act)
      const error = await outcome(safeFetch(url, limits()))
      expect(error).toBeInstanceOf(Error)
      expect(error).not.toBeInstanceOf(FetchRefused)
    }
  })

  test('when it hangs before the head or in the body beyond the deadline', async () => {
    for (const act of [hang, hangInBody('image/png')]) {
      server.on('GET /a.png', act)
      const signal = AbortSignal.timeout(30)
      expect(await outcome(safeFetch(url, limits({ signal })))).toBe(signal.reason)
    }
  })

  test('with an error that contains no part of the URL but its host', async () => {
    server.on('GET /a.png?signature=hunter2', status(403))
    const error = await outcome(safeFetch('https://cdn.example/a.png?signature=hunter2', limits()))
    expect(Bun.inspect(error)).not.toContain('hunter2')
  })
})

test('a real connection uses the checked address, sends the host name for TLS, and starts with a TLS handshake', async () => {
  let hello = ''
  const listener = createServer((socket) => {
    socket.once('data', (bytes) => {
      hello = bytes.toString('latin1')
      socket.destroy()
    })
  })
  await new Promise<void>((done) => listener.listen(0, '127.0.0.1', done))
  const { port } = listener.address() as AddressInfo
  try {
    const url = new URL(`https://pictures.example:${port}/a.png`)
    const sent = connectTo(url, ['127.0.0.1'], { headers: {}, signal: AbortSignal.timeout(10_000) })
    expect(await new Promise((done) => sent.on('error', done).on('response', done).end())).toBeInstanceOf(Error)
    // A TLS handshake record, which contains the server name in plain text.
    expect(hello.startsWith('\x16')).toBe(true)
    expect(hello.includes('pictures.example')).toBe(true)
  } finally {
    await new Promise((done) => listener.close(done))
  }
})
