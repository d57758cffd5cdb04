import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test'
import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { Redis as Client } from 'ioredis'
import { manualClock, systemClock } from '../../src/kit/clock.ts'
import { type BreakerPolicy, createBreakers, defaultPolicies } from '../../src/platform/breaker.ts'
import { createLog } from '../../src/platform/log.ts'
import { createRedis, type Redis, type RedisOptions } from '../../src/platform/redis.ts'
import { until } from '../faults/support.ts'
import { freePort, startRedis } from '../harness.ts'
import { findRedis, findValkey } from '../world/programs.ts'

type Line = { event: string; reason?: string }

const closing: (() => unknown)[] = []
const rejections: unknown[] = []
const noteRejection = (error: unknown) => rejections.push(error)

beforeAll(() => {
  process.on('unhandledRejection', noteRejection)
})
afterAll(() => {
  process.off('unhandledRejection', noteRejection)
})
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close()
  expect(rejections.splice(0)).toEqual([])
})

const breakersWith = (policy: Partial<BreakerPolicy>) =>
  createBreakers({
    clock: systemClock,
    log: createLog('silent'),
    defaults: { redis: { ...defaultPolicies.redis, ...policy } },
  })

/** Timeouts that even a busy machine keeps. Tests of timeouts set their own. */
const open = <S extends string = never>(url: string, options: Partial<RedisOptions<S>> = {}) => {
  const lines: Line[] = []
  const write = (fields: object) => void lines.push(fields as Line)
  const log = { debug: write, info: write, warn: write, error: write }
  const redis = createRedis<S>({ url, clock: systemClock, log, deadlineMs: 5_000, maxRetryMs: 100, ...options })
  closing.push(() => redis.close())
  return { redis, lines, events: () => lines.map(({ event }) => event) }
}
const start = async (options?: Parameters<typeof startRedis>[0]) => {
  const server = await startRedis(options)
  closing.push(() => server.stop())
  return server
}
const portOf = (url: string) => Number(new URL(url).port)
const isUp = (redis: Redis<never>) => until(() => redis.state() === 'up', 'connected')
const isDown = (redis: Redis<never>) => until(() => redis.state() === 'down', 'disconnected')
const get = (redis: Redis<never>, key: string) => redis.run(({ client }) => client.get(key))
const set = (redis: Redis<never>, key: string, value: string) =>
  redis.runBypassingBreaker(({ client }) => client.set(key, value))

/** A TCP server that is not Redis. */
const impostor = async (converse: (socket: Socket) => void) => {
  let callers = 0
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    callers += 1
    sockets.add(socket)
    socket.on('error', () => {}).on('close', () => sockets.delete(socket))
    converse(socket)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  closing.push(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return { port: (server.address() as { port: number }).port, callers: () => callers }
}

describe('a healthy Redis', () => {
  test('answers concurrent commands, and a missing key is null instead of a miss', async () => {
    const { redis, lines } = open((await start()).url)
    await isUp(redis)
    expect(await set(redis, 'a', '1')).toBe(true)
    expect(await get(redis, 'a')).toBe('1')
    expect(await get(redis, 'nothing')).toBeNull()
    expect(await redis.run(({ client }) => Promise.all([client.get('a'), client.incr('n')]))).toEqual(['1', 1])
    expect(redis.counts).toEqual({ timeouts: 0, errors: 0 })
    expect(lines).toEqual([])
  })

  test('has one run id for the caller and the work on every connection', async () => {
    const { url } = await start()
    const [one, other] = [open(url), open(url)]
    await isUp(one.redis)
    await isUp(other.redis)
    expect(one.redis.serverRunId).toMatch(/^[0-9a-f]{40}$/)
    expect(other.redis.serverRunId).toBe(one.redis.serverRunId as string)
    const told = await one.redis.run(async ({ client, serverRunId }) => [serverRunId, await client.info('server')])
    expect(told?.[0]).toBe(one.redis.serverRunId as string)
    expect(told?.[1]).toContain(`run_id:${one.redis.serverRunId}`)
  })

  test('runs scripts, even after SCRIPT FLUSH', async () => {
    const { redis } = open((await start()).url, {
      scripts: { put: { lua: "redis.call('set', KEYS[1], ARGV[1]) return ARGV[1] .. '!'", keys: 1 } },
    })
    await isUp(redis)
    const put = (value: string) => redis.run(({ scripts }) => scripts.put('k', value))
    expect([await put('a'), await put('b')]).toEqual(['a!', 'b!'])
    expect(await redis.runBypassingBreaker(({ client }) => client.script('FLUSH'))).toBe(true)
    expect([await put('c'), await put('d')]).toEqual(['c!', 'd!'])
    expect(await get(redis, 'k')).toBe('d')
    expect(redis.counts).toEqual({ timeouts: 0, errors: 0 })
  })

  test('turns a rejected command and work that throws into a counted miss', async () => {
    const { redis } = open((await start()).url)
    await isUp(redis)
    await set(redis, 'text', 'a')
    expect(await redis.run(({ client }) => client.incr('text'))).toBeUndefined()
    expect(await redis.runBypassingBreaker(({ client }) => client.incr('text'))).toBe(false)
    const broken = () => {
      throw new Error('of the caller')
    }
    expect(await redis.run(broken)).toBeUndefined()
    expect(await redis.runBypassingBreaker(broken)).toBe(false)
    expect(redis.counts).toEqual({ timeouts: 0, errors: 4 })
    expect(await get(redis, 'text')).toBe('a')
  })

  test('is not timed out when the response came in time while this process was busy', async () => {
    const { redis } = open((await start()).url, { deadlineMs: 20 })
    await isUp(redis)
    for (let round = 0; round < 5; round += 1) {
      const answer = get(redis, 'nothing')
      const endsAtMs = performance.now() + 60
      while (performance.now() < endsAtMs);
      expect(await answer).toBeNull()
    }
    expect(redis.counts.timeouts).toBe(0)
  })
})

describe('a frozen Redis', () => {
  const freeze = async (options: Partial<RedisOptions<never>>) => {
    const server = await start()
    const opened = open(server.url, options)
    await isUp(opened.redis)
    // Warm up, so that the timing below measures only the deadline.
    await get(opened.redis, 'warm')
    process.kill(server.pid, 'SIGSTOP')
    closing.push(() => process.kill(server.pid, 'SIGCONT'))
    return { ...opened, server, thaw: () => process.kill(server.pid, 'SIGCONT') }
  }

  test('is a miss at the deadline', async () => {
    const { redis } = await freeze({ deadlineMs: 20 })
    const startedMs = performance.now()
    expect(await get(redis, 'a')).toBeUndefined()
    const tookMs = performance.now() - startedMs
    expect(tookMs).toBeGreaterThanOrEqual(18)
    expect(tookMs).toBeLessThan(250)
    expect(redis.counts).toEqual({ timeouts: 1, errors: 0 })
  })

  test('opens the breaker after five misses, then gets one probe a second until it answers', async () => {
    const clock = manualClock()
    const { redis, events, thaw } = await freeze({ deadlineMs: 20, clock, socketTimeoutMs: 60_000 })
    let begun = 0
    const ask = () =>
      redis.run(({ client }) => {
        begun += 1
        return client.get('a')
      })
    const askMany = (times: number) => Promise.all(Array.from({ length: times }, ask))

    for (let call = 1; call <= 5; call += 1) {
      expect(redis.state()).toBe('up')
      expect(await ask()).toBeUndefined()
    }
    expect(redis.state()).toBe('tripped')
    expect(begun).toBe(5)

    clock.advance(999)
    expect(await askMany(100)).toEqual(Array(100).fill(undefined))
    expect(begun).toBe(5)

    // One probe at a time, which delays no other call; a failed probe is repeated after a second.
    clock.advance(1)
    const probe = ask()
    let waited = true
    void probe.then(() => {
      waited = false
    })
    expect(await askMany(100)).toEqual(Array(100).fill(undefined))
    expect([begun, waited]).toEqual([6, true])
    expect(await probe).toBeUndefined()
    clock.advance(999)
    await askMany(10)
    expect([begun, redis.state()]).toEqual([6, 'tripped'])

    thaw()
    await until(async () => {
      clock.advance(1_000)
      return (await ask()) === null
    }, 'answers again')
    expect(redis.state()).toBe('up')
    expect(await askMany(10)).toEqual(Array(10).fill(null))
    expect(events()).toEqual(['redis.lost', 'redis.back'])
  })

  test('still receives critical work while reads have opened the breaker', async () => {
    const { redis, thaw } = await freeze({
      deadlineMs: 10,
      breakers: breakersWith({ probeAfterMs: 60_000 }),
      socketTimeoutMs: 60_000,
    })
    for (let call = 0; call < 5; call += 1) await get(redis, 'a')
    expect(redis.state()).toBe('tripped')
    const startedMs = performance.now()
    expect(await redis.runBypassingBreaker(({ client }) => client.del('a'), 50)).toBe(false)
    expect(performance.now() - startedMs).toBeGreaterThanOrEqual(48)
    const done = redis.runBypassingBreaker(({ client }) => client.set('b', '1'), 10_000)
    thaw()
    expect(await done).toBe(true)
    expect(redis.state()).toBe('tripped')
  })

  test('has its late responses dropped, so the next call gets its own response', async () => {
    const { redis, thaw } = await freeze({
      deadlineMs: 50,
      breakers: breakersWith({ failures: 1_000 }),
      socketTimeoutMs: 60_000,
    })
    const misses = await Promise.all([
      redis.run(({ client }) => client.set('a', 'late')),
      redis.run(({ client }) => client.hget('a', 'of the wrong type')),
      redis.run(({ client }) => Promise.all([client.incr('a'), client.get('a')])),
      redis.run(({ client }) => client.get('a')),
    ])
    expect(misses).toEqual([undefined, undefined, undefined, undefined])
    thaw()
    expect(await redis.runBypassingBreaker(({ client }) => client.set('b', 'mine'), 10_000)).toBe(true)
    expect(await redis.run(({ client }) => Promise.all([client.get('b'), client.get('a')]))).toEqual(['mine', 'late'])
    await Bun.sleep(20)
    expect(rejections).toEqual([])
    expect(redis.counts).toEqual({ timeouts: 4, errors: 0 })
  })

  test('is disconnected when a response is overdue, and comes back on a new connection', async () => {
    const { redis, events, thaw } = await freeze({ deadlineMs: 20, socketTimeoutMs: 200, connectMs: 200 })
    expect(await get(redis, 'a')).toBeUndefined()
    await isDown(redis)
    expect(redis.serverRunId).toBeUndefined()
    // After some attempts: the kernel of a frozen process still accepts connections.
    await Bun.sleep(600)
    expect(redis.state()).toBe('down')
    thaw()
    await isUp(redis)
    expect(events()).toEqual(['redis.lost', 'redis.back'])
  })
})

describe('a restarted Redis', () => {
  test('is a miss at once, then reconnects by itself with another run id', async () => {
    const first = await start()
    const { redis, events } = open(first.url)
    await isUp(redis)
    const before = redis.serverRunId
    const old = await redis.run(async (connection) => connection)
    await first.stop()
    await isDown(redis)
    expect(redis.serverRunId).toBeUndefined()
    let begun = 0
    const count = async () => {
      begun += 1
    }
    expect(await redis.run(count)).toBeUndefined()
    expect(await redis.runBypassingBreaker(count)).toBe(false)
    expect(begun).toBe(0)
    await Bun.sleep(300)

    await start({ port: portOf(first.url) })
    await isUp(redis)
    expect(redis.serverRunId).toMatch(/^[0-9a-f]{40}$/)
    expect(redis.serverRunId).not.toBe(before as string)
    expect(events()).toEqual(['redis.lost', 'redis.back'])

    // A connection kept beyond its call, with its old run id, is dead.
    const kept = await old?.client.set('kept', '1').catch((error: Error) => error)
    expect(kept).toBeInstanceOf(Error)
    expect(await get(redis, 'kept')).toBeNull()
  })

  test('does not get a command again whose outcome is unknown', async () => {
    const first = await start()
    const { redis } = open(first.url)
    await isUp(redis)
    process.kill(first.pid, 'SIGSTOP')
    const pending = [
      redis.runBypassingBreaker(({ client, serverRunId }) => client.set('left', serverRunId), 10_000),
      redis.runBypassingBreaker(({ client }) => Promise.all([client.get('a'), client.set('left', 'over')]), 10_000),
      redis.run(({ client }) => client.set('left', 'behind')),
    ]
    await first.stop()
    expect(await Promise.all(pending)).toEqual([false, false, undefined])
    await start({ port: portOf(first.url) })
    await isUp(redis)
    await Bun.sleep(50)
    expect(await get(redis, 'left')).toBeNull()
  })

  test('has another run id although it restored its data', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'velro-redis-'))
    closing.push(() => rm(folder, { recursive: true, force: true }))
    const flags = ['--dir', folder]
    const first = await start({ flags })
    const { redis } = open(first.url)
    await isUp(redis)
    const before = redis.serverRunId as string
    await set(redis, `${before}:a`, '1')
    expect(await redis.runBypassingBreaker(({ client }) => client.save(), 10_000)).toBe(true)
    await first.stop()
    await isDown(redis)
    await start({ flags, port: portOf(first.url) })
    await isUp(redis)
    expect(await get(redis, `${before}:a`)).toBe('1')
    expect(redis.serverRunId).not.toBe(before)
  })
})

describe('an unavailable Redis', () => {
  test('from the start throws nothing, delays nothing, is logged once, and is used when it appears', async () => {
    const port = await freePort()
    const { redis, lines, events } = open(`redis://127.0.0.1:${port}`)
    expect(redis.state()).toBe('down')
    expect(redis.serverRunId).toBeUndefined()
    expect(await get(redis, 'a')).toBeUndefined()
    expect(await set(redis, 'a', '1')).toBe(false)
    await Bun.sleep(500)
    expect(events()).toEqual(['redis.lost'])
    expect(lines[0]?.reason).toContain('ECONNREFUSED')
    await start({ port })
    await isUp(redis)
    expect(events()).toEqual(['redis.lost', 'redis.back'])
  })

  const impostors: Record<string, { converse: (socket: Socket) => void; reason: RegExp }> = {
    'speaks something else': {
      converse: (socket) => socket.on('data', () => socket.write('HTTP/1.1 400 Bad Request\r\n\r\n')),
      reason: /Unknown RESP type/,
    },
    'speaks without being asked': { converse: (socket) => socket.write('+OK\r\n+OK\r\n'), reason: /./ },
    'says yes to everything': {
      converse: (socket) =>
        socket.on('data', (data) => socket.write('+OK\r\n'.repeat(data.toString().split('*').length - 1))),
      reason: /run_id/,
    },
    'says no to everything': {
      converse: (socket) =>
        socket.on('data', (data) => socket.write('-ERR no\r\n'.repeat(data.toString().split('*').length - 1))),
      reason: /ERR no/,
    },
    'says nothing': { converse: () => {}, reason: /No connection within 100 ms/ },
    'hangs up': { converse: (socket) => socket.destroy(), reason: /./ },
  }
  for (const [what, { converse, reason }] of Object.entries(impostors)) {
    test(`that ${what} is retried with backoff and logged once`, async () => {
      const { port, callers } = await impostor(converse)
      const { redis, lines, events } = open(`redis://127.0.0.1:${port}`, { connectMs: 100 })
      const tookMs = await until(() => callers() >= 6, 'six attempts')
      // 25, 50, 100, 100, 100 ms, each shortened by up to a half.
      expect(tookMs).toBeGreaterThan(150)
      expect(redis.state()).toBe('down')
      expect(await get(redis, 'a')).toBeUndefined()
      expect(await set(redis, 'a', '1')).toBe(false)
      expect(events()).toEqual([/run_id/.test(reason.source) ? 'redis.unsuitable' : 'redis.lost'])
      expect(lines[0]?.reason).toMatch(reason)
    })
  }

  for (const [how, flags] of [
    ['has renamed it', ['--rename-command', 'INFO', '']],
    ['does not permit it', ['--user', 'default', 'on', 'nopass', '~*', '+@all', '-info']],
  ] as const) {
    test(`that refuses INFO, because it ${how}, is not used, and one line says so`, async () => {
      const { redis, lines } = open((await start({ flags })).url)
      await until(() => lines.length > 0, 'a line')
      await Bun.sleep(300)
      expect(lines).toEqual([
        { event: 'redis.unsuitable', reason: expect.stringContaining('refuses the command INFO') },
      ])
      expect([redis.state(), await get(redis, 'a')]).toEqual(['down', undefined])
    })
  }

  test('is retried with delays that grow up to the maximum', async () => {
    const { port, callers } = await impostor((socket) => socket.destroy())
    open(`redis://127.0.0.1:${port}`, { maxRetryMs: 40, random: () => 1 })
    await until(() => callers() >= 10, 'ten attempts')
  })

  test('that fails its first five commands does not reset the backoff', async () => {
    const { port, callers } = await impostor((socket) => {
      let asked = 0
      socket.on('data', (data) => {
        for (const command of data.toString().split('*').slice(1)) {
          const info = 'run_id:abc\r\nrole:master'
          socket.write(/INFO\r\n$/i.test(command) && asked++ === 0 ? `$${info.length}\r\n${info}\r\n` : '+OK\r\n')
          if (asked > 0) setTimeout(() => socket.destroy(), 5)
        }
      })
    })
    const { redis } = open(`redis://127.0.0.1:${port}`, { maxRetryMs: 10_000, random: () => 1 })
    await until(() => redis.state() === 'up', 'taken for a Redis')
    await Bun.sleep(700)
    // After 25, 75, 175, 375 ms and so on.
    expect(callers()).toBeLessThanOrEqual(6)
    expect(callers()).toBeGreaterThanOrEqual(3)
  })
})

describe('the URL', () => {
  test('sets user, password and database number; its query is ignored', async () => {
    const { url } = await start({ flags: ['--requirepass', 'p@ss:wörd/'] })
    const { port } = new URL(url)
    const at = (database: string) => `redis://default:${encodeURIComponent('p@ss:wörd/')}@127.0.0.1:${port}${database}`
    const [two, none] = [open(at('/2?enableOfflineQueue=true&db=3&keyPrefix=x')), open(at(''))]
    await isUp(two.redis)
    await isUp(none.redis)
    await set(two.redis, 'a', 'in two')
    expect(await get(none.redis, 'a')).toBeNull()
    await none.redis.runBypassingBreaker(({ client }) => client.select(2))
    expect(await get(none.redis, 'a')).toBe('in two')
  })

  for (const password of ['', ':wrong-hunter2@']) {
    test(`with a ${password === '' ? 'missing' : 'wrong'} password means no connection, and the password is not logged`, async () => {
      const { url } = await start({ flags: ['--requirepass', 'right-hunter2'] })
      const { redis, lines, events } = open(url.replace('//', `//${password}`))
      await until(() => lines.length > 0, 'a line')
      await Bun.sleep(300)
      expect(events()).toEqual(['redis.lost'])
      expect(lines[0]?.reason).toMatch(password === '' ? /^NOAUTH/ : /^WRONGPASS/)
      expect(JSON.stringify(lines)).not.toContain('hunter2')
      expect(redis.state()).toBe('down')
      expect(await get(redis, 'a')).toBeUndefined()
    })
  }

  test('with an invalid database number means no connection, not another database', async () => {
    const { redis, lines } = open(`${(await start()).url}/99`)
    await until(() => lines.length > 0, 'a line')
    await Bun.sleep(100)
    expect(lines.map(({ reason }) => reason)).toEqual([expect.stringContaining('DB index is out of range')])
    expect(redis.state()).toBe('down')
  })

  test('with rediss:// starts a TLS handshake', async () => {
    const heard = Promise.withResolvers<Buffer>()
    const { port } = await impostor((socket) => socket.on('data', heard.resolve))
    open(`rediss://127.0.0.1:${port}`)
    const hello = await heard.promise
    expect([hello[0], hello[1]]).toEqual([0x16, 0x03])
  })
})

describe('in a replicated or clustered Redis', () => {
  test('a replica is not used, and a demoted master is dropped at the first write it rejects', async () => {
    const [master, other] = [await start(), await start()]
    const { redis, lines } = open(other.url)
    await isUp(redis)
    const before = redis.serverRunId
    const port = `${portOf(master.url)}`
    expect(await redis.runBypassingBreaker(({ client }) => client.replicaof('127.0.0.1', port))).toBe(true)
    expect(await set(redis, 'a', '1')).toBe(false)
    expect(redis.state()).toBe('down')
    expect(lines).toEqual([{ event: 'redis.lost', reason: expect.stringMatching(/^READONLY/) }])

    const late = open(other.url)
    await until(() => late.lines.length > 0, 'a line')
    await Bun.sleep(200)
    expect(late.lines).toEqual([{ event: 'redis.unsuitable', reason: 'The server is a replica; use its master' }])
    expect(late.redis.state()).toBe('down')
    expect(before).toBeDefined()
  })

  for (const name of ['redis-server', 'valkey-server'] as const) {
    const program = name === 'redis-server' ? findRedis() : findValkey()
    const startNode = async () => {
      const folder = await mkdtemp(join(tmpdir(), 'velro-redis-'))
      closing.push(() => rm(folder, { recursive: true, force: true }))
      const node = await start({ ...(program && { program }), flags: ['--cluster-enabled', 'yes', '--dir', folder] })
      const admin = new Client(node.url)
      closing.push(() => admin.disconnect())
      return { url: node.url, tell: (...what: string[]) => admin.call('CLUSTER', ...what) }
    }

    test.skipIf(program === undefined)(`a cluster of one node is used once it has its slots (${name})`, async () => {
      const node = await startNode()
      const early = open(node.url)
      await until(() => early.redis.state() === 'up' || early.lines.length > 0, 'it is connected or refused')
      expect(await set(early.redis, 'a', '1')).toBe(false)
      // Valkey counts no node where no slot is assigned, Redis 7.0 counts one.
      for (const { reason } of early.lines)
        expect(reason).toMatch(/^CLUSTERDOWN|^The server is a node of a cluster without slots/)
      await node.tell('ADDSLOTSRANGE', '0', '16383')
      await until(() => set(early.redis, 'a', '1'), 'the cluster is well')
      const late = open(node.url)
      await isUp(late.redis)
      const read = await late.redis.run(({ client }) => Promise.all([client.get('a'), client.get('b')]))
      expect(read).toEqual(['1', null])
      expect(late.lines).toEqual([])
    })

    test.skipIf(program === undefined)(`a cluster of several nodes is not used (${name})`, async () => {
      const [one, other] = [await startNode(), await startNode()]
      await one.tell('ADDSLOTSRANGE', '0', '8191')
      await other.tell('ADDSLOTSRANGE', '8192', '16383')
      await one.tell('MEET', '127.0.0.1', `${portOf(other.url)}`)
      await until(async () => /cluster_size:2/.test(String(await one.tell('INFO'))), 'two nodes')
      const { redis, lines } = open(one.url)
      await until(() => lines.length > 0, 'a line')
      expect(lines[0]?.reason).toBe('The server is a cluster of 2 nodes; use a single node')
      expect(redis.state()).toBe('down')
    })
  }
})

describe('closing the connection', () => {
  test('rejects pending work and stops reconnecting', async () => {
    const server = await start()
    const { redis, events } = open(server.url)
    const watcher = open(server.url)
    await isUp(redis)
    await isUp(watcher.redis)
    process.kill(server.pid, 'SIGSTOP')
    const pending = [get(redis, 'a'), set(redis, 'a', '1')]
    await redis.close()
    expect(await Promise.all<unknown>(pending)).toEqual([undefined, false])
    process.kill(server.pid, 'SIGCONT')
    expect([redis.state(), redis.serverRunId]).toEqual(['down', undefined])
    expect(await get(redis, 'a')).toBeUndefined()
    expect(await set(redis, 'a', '1')).toBe(false)
    await redis.close()
    await Bun.sleep(200)
    const connected = await watcher.redis.run(({ client }) => client.info('clients'))
    expect(connected).toMatch(/^connected_clients:1\r$/m)
    expect(events()).toEqual([])
  })

  test('before it is established leaves no socket and no timer', async () => {
    const { port, callers } = await impostor(() => {})
    const { redis } = open(`redis://127.0.0.1:${port}`)
    await redis.close()
    await Bun.sleep(200)
    expect(callers()).toBeLessThanOrEqual(1)
  })

  const commands = {
    bun: [process.execPath],
    deno: [fileURLToPath(new URL('../../node_modules/deno/deno', import.meta.url)), 'run', '-A'],
  } as const
  const fixture = fileURLToPath(new URL('fixtures/redis-process.ts', import.meta.url))
  for (const runtime of ['bun', 'deno'] as const) {
    const inProcess = async (url: string, waitMs: number) => {
      const [command, ...args] = commands[runtime]
      const env = { ...process.env, DENO_NO_UPDATE_CHECK: '1' }
      const run = promisify(execFile)(command, [...args, fixture, url, `${waitMs}`], { env, timeout: 30_000 })
      const { stdout, stderr } = await run
      expect(stderr).toBe('')
      return JSON.parse(stdout)
    }

    test(`lets a ${runtime} process exit, connected`, async () => {
      const answers = { stored: true, swapped: ['a', 'b'], read: 'c' }
      const { url } = await start()
      expect(await inProcess(url, 20_000)).toEqual({ state: 'up', ...answers, after: 'down' })
    })

    test(`lets a ${runtime} process exit, unconnected`, async () => {
      const answers = { stored: false, swapped: [null, null] }
      const url = `redis://127.0.0.1:${await freePort()}`
      expect(await inProcess(url, 300)).toEqual({ state: 'down', ...answers, after: 'down' })
    })
  }
})
