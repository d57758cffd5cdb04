import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, connect as dial, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createLog } from '../../src/platform/log.ts'
import { listen, NotConnected, type Notifications } from '../../src/platform/notifications.ts'
import { type Connection, connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

let database: TestDatabase
let sql: Sql
let told: string[]
let opened: Sql[]
let listener: Notifications

const until = async (isSo: () => boolean | Promise<boolean>) => {
  for (const giveUpAt = Date.now() + 20_000; !(await isSo()); await Bun.sleep(2)) {
    if (Date.now() > giveUpAt) throw new Error(`It never was so: ${told}`)
  }
}
const start = (connection: Connection = database.connection, channels = ['common', 'mine:1']) => {
  told = []
  opened = []
  listener = listen({
    connection,
    senderConnection: connection,
    channels,
    identify: async (on) => {
      const [row] = await on<{ database: string }[]>`select current_database() as database`
      return row?.database
    },
    log: createLog('silent'),
    onMessage: (payload) => void told.push(payload),
    onOpen: (listeningTo) => {
      expect(listeningTo).toBe(database.connection.database)
      opened.push(listener.sender())
      told.push('open')
    },
    onLost: () => void told.push('lost'),
    onUnreachable: () => {},
  })
  return listener
}
const count = (what: string) => told.filter((each) => each === what).length
const isOpen = () => until(() => told.at(-1) === 'open' || count('open') > count('lost'))
/** Waits until everything sent so far was received. */
const quiet = async () => {
  const mark = `mark ${Math.random()}`
  await sql`select pg_notify('common', ${mark})`
  await until(() => told.includes(mark))
  told.splice(told.indexOf(mark), 1)
}
const cut = () => sql`
  select pg_terminate_backend(pid) from pg_stat_activity
   where application_name = 'velro:bus' and datname = ${database.connection.database}`

beforeAll(async () => {
  database = await createDatabase({ migrated: false })
  sql = connectOnce(database.connection)
})
afterEach(() => listener?.close())
afterAll(async () => {
  await sql?.end()
  await database?.drop()
})

describe('a notification', () => {
  beforeEach(async () => {
    start()
    await isOpen()
  })

  test('is received on the listened channels only, including by its sender', async () => {
    await listener.send('common', 'a')
    await listener.send('mine:1', 'b')
    await listener.send('mine:2', 'c')
    await sql`select pg_notify('common', 'd')`
    await quiet()
    expect(told).toEqual(['open', 'a', 'b', 'd'])
  })

  test('is received in commit order, whichever transaction began first', async () => {
    const other = connectOnce(database.connection)
    const { promise: go, resolve: let_ } = Promise.withResolvers<void>()
    const begun = Promise.withResolvers<void>()
    const slow = other.begin(async (tx) => {
      await tx`select pg_notify('common', 'first begun')`
      begun.resolve()
      await go
    })
    await begun.promise
    for (let at = 0; at < 50; at += 1) await sql`select pg_notify('common', ${`n${at}`})`
    let_()
    await slow
    await quiet()
    expect(told).toEqual(['open', ...Array.from({ length: 50 }, (_, at) => `n${at}`), 'first begun'])
    await other.end()
  })

  test('of a rolled-back transaction is not received', async () => {
    const failed = sql.begin(async (tx) => {
      await tx`select pg_notify('common', 'x')`
      throw new Error('taken back')
    })
    await expect(failed).rejects.toThrow('taken back')
    await quiet()
    expect(told).toEqual(['open'])
  })
})

test('notifications before all channels are listened to are not delivered, because onOpen covers them', async () => {
  start(
    database.connection,
    Array.from({ length: 400 }, (_, at) => (at === 0 ? 'common' : `other:${at}`)),
  )
  let early = 0
  while (told.length === 0) {
    await sql`select pg_notify('common', 'early or not')`
    early += 1
  }
  await isOpen()
  await quiet()
  expect(early).toBeGreaterThan(5)
  expect(told.indexOf('open')).toBe(0)
})

describe('a lost connection', () => {
  test('is reported once and replaced, and messages arrive again', async () => {
    start()
    await isOpen()
    for (let times = 1; times <= 3; times += 1) {
      await cut()
      await until(() => count('open') === times + 1)
    }
    await listener.send('common', 'a')
    await quiet()
    expect(told).toEqual(['open', 'lost', 'open', 'lost', 'open', 'lost', 'open', 'a'])
  })

  test('rejects sends at once until it is replaced', async () => {
    start()
    await expect(listener.send('common', 'early')).rejects.toBeInstanceOf(NotConnected)
    await isOpen()
    await cut()
    await until(() => count('lost') === 1)
    await expect(listener.send('common', 'late')).rejects.toBeInstanceOf(NotConnected)
    await until(() => count('open') === 2)
    await quiet()
    expect(told).toEqual(['open', 'lost', 'open'])
  })

  test('sends nothing on the connection that listens, and all else on the other', async () => {
    start()
    await isOpen()
    await listener.send('common', 'a')
    await quiet()
    const statements = await sql<{ name: string; query: string }[]>`
      select application_name as name, query from pg_stat_activity
       where application_name like 'velro:bus%' and datname = ${database.connection.database} order by 1`
    expect(statements.map(({ name }) => name)).toEqual(['velro:bus', 'velro:bus-sender'])
    expect(statements[0]?.query).toStartWith('listen ')
    expect(statements[1]?.query).toContain('pg_notify')
  })

  test('delivers nothing that was sent during the gap', async () => {
    start()
    await isOpen()
    await cut()
    await until(() => count('lost') === 1)
    await sql`select pg_notify('common', 'missed')`
    await until(() => count('open') === 2)
    await quiet()
    expect(told.filter((each) => each === 'missed')).toEqual([])
  })

  test('can be forced by restart when the connection is silent', async () => {
    start()
    await isOpen()
    listener.restart()
    expect(told).toEqual(['open', 'lost'])
    await until(() => count('open') === 2)
    expect(opened[0]).not.toBe(opened[1] as Sql)
    await quiet()
    expect(told).toEqual(['open', 'lost', 'open'])
  })
})

describe('behind a proxy that can be cut', () => {
  /** Forwards data to the server or holds it back. */
  let wire: Server
  let folder: string
  let holding = false
  let holdingWhenReady = false
  let refusing = false
  const sockets = new Set<Socket>()

  const through = (): Connection => ({ ...database.connection, host: folder })
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'velro-wire-'))
    const { host, port } = database.connection
    wire = createServer((near) => {
      if (refusing) return void near.destroy()
      const far = dial(join(host, `.s.PGSQL.${port}`))
      for (const [from, to] of [
        [near, far],
        [far, near],
      ] as const) {
        sockets.add(from)
        from.on('data', (data) => {
          if (!holding) to.write(data)
          // The server has sent ReadyForQuery; nothing is forwarded from here on.
          if (holdingWhenReady && from === far && data.includes('Z\0\0\0\x05I')) holding = true
        })
        from.on('error', () => {})
        from.on('close', () => {
          sockets.delete(from)
          to.destroy()
        })
      }
    })
    await new Promise<void>((resolve) => wire.listen(join(folder, `.s.PGSQL.${port}`), resolve))
  })
  beforeEach(() => {
    holding = false
    holdingWhenReady = false
    refusing = false
  })
  afterAll(async () => {
    for (const socket of sockets) socket.destroy()
    wire?.close()
    await rm(folder, { recursive: true, force: true })
  })

  test('the listener retries an absent server until it is back', async () => {
    start(through())
    await isOpen()
    refusing = true
    for (const socket of sockets) socket.destroy()
    await until(() => count('lost') === 1)
    await Bun.sleep(700)
    expect(count('open')).toBe(1)
    refusing = false
    await until(() => count('open') === 2)
    await quiet()
    expect(told).toEqual(['open', 'lost', 'open'])
  })

  test('a silent connection is replaced by restart', async () => {
    start(through())
    await isOpen()
    holding = true
    const sent = listener.send('common', 'into the void').catch((error) => error)
    listener.restart()
    expect(await sent).toBeInstanceOf(Error)
    holding = false
    await until(() => count('open') === 2)
  })

  for (const [when, hold] of [
    [
      'before it is made',
      () => {
        holding = true
      },
    ],
    [
      'before it listens',
      () => {
        holdingWhenReady = true
      },
    ],
  ] as const) {
    test(`a connection that falls silent ${when} is dropped by timeout`, async () => {
      hold()
      start(through())
      await until(() => sockets.size > 0)
      await until(() => sockets.size === 0)
      expect(told).toEqual([])
      holding = false
      holdingWhenReady = false
      await isOpen()
      await listener.send('common', 'a')
      await quiet()
      expect(told).toEqual(['open', 'a'])
    })
  }
})

describe('closing the listener', () => {
  const connections = async () => {
    const [row] = await sql<{ count: number }[]>`
      select count(*)::int from pg_stat_activity
       where application_name like 'velro:bus%' and datname = ${database.connection.database}`
    return row?.count
  }

  test('ends its connection and calls no handler any more', async () => {
    start()
    await isOpen()
    await listener.close()
    await until(async () => (await connections()) === 0)
    await sql`select pg_notify('common', 'late')`
    await expect(listener.send('common', 'x')).rejects.toBeInstanceOf(NotConnected)
    listener.restart()
    await Bun.sleep(200)
    expect(told).toEqual(['open'])
    expect(await connections()).toBe(0)
    await listener.close()
  })

  test('cancels a connection attempt and a scheduled retry', async () => {
    start()
    await listener.close()
    start()
    await isOpen()
    await cut()
    await until(() => count('lost') === 1)
    await listener.close()
    await Bun.sleep(200)
    await until(async () => (await connections()) === 0)
    expect(told).toEqual(['open', 'lost'])
  })
})
