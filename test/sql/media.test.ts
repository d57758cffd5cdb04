import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { createHash } from 'node:crypto'
import { systemClock } from '../../src/kit/clock.ts'
import { newId } from '../../src/kit/id.ts'
import { createMediaStorage } from '../../src/media/media-storage.ts'
import { createMediaStore, type NewMedia } from '../../src/media/store.ts'
import { createLog } from '../../src/platform/log.ts'
import { objectKey } from '../../src/platform/objects.ts'
import { connect, type Sql, type TransactionSql } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { createDatabase, type TestDatabase } from '../harness.ts'

let database: TestDatabase
let sql: Sql
let store: ReturnType<typeof createMediaStore>
let owner: string
beforeAll(async () => {
  database = await createDatabase()
  sql = connect(database.connection, { max: 20 })
  store = createMediaStore(sql, sql)
  owner = newId()
  await sql`
    insert into users (id, email, display_name, password_hash)
    values (${owner}, 'somebody@example.com', 'Somebody', 'x')`
})
beforeEach(async () => {
  await sql`truncate generations, media, media_objects cascade`
})
afterAll(async () => {
  await sql?.end({ timeout: 1 })
  await database?.drop()
})

const hashOf = (text: string) => createHash('sha256').update(text).digest('hex')
const inside = <T>(work: (tx: TransactionSql) => Promise<T>) => sql.begin(work) as Promise<T>
const claim = async (sha256: string): Promise<string> => {
  const id = newId()
  await store.claim([
    { claimId: id, sha256, content_type: 'image/png', bytes: 1, width: 1, height: 1, duration_ms: null },
  ])
  return id
}
const upload = (sha256: string): NewMedia => ({
  id: newId(),
  generation_id: null,
  owner_id: owner,
  position: null,
  sha256,
})
const publish = (id: string, media: NewMedia) =>
  inside(async (tx) => {
    if (!(await store.confirm(tx, [id]))) return false
    await store.insert(tx, [media])
    return true
  })
/** One that is somebody's. */
const keep = async (sha256: string) => {
  const media = upload(sha256)
  expect(await publish(await claim(sha256), media)).toBe(true)
  return media
}
const remove = ({ id }: NewMedia) => inside((tx) => store.remove(tx, id))
const isThere = async (sha256: string) => (await sql`select from media_objects where sha256 = ${sha256}`).length === 1
const letGo = (sha256: string, work = async () => {}) => store.deleteOrphan(sha256, work)
/** A transaction that stays open after `work` until it is told to end. */
const holding = async (work: (tx: TransactionSql) => Promise<unknown>) => {
  const done = Promise.withResolvers<void>()
  const end = Promise.withResolvers<void>()
  const transaction = inside(async (tx) => {
    await work(tx)
    done.resolve()
    await end.promise
  })
  transaction.catch(done.reject)
  await done.promise
  return () => {
    end.resolve()
    return transaction
  }
}
const countWaiting = async () => {
  const [row] = await sql<{ waiting: number }[]>`
    select count(*)::int as waiting from pg_stat_activity
     where datname = ${database.connection.database} and wait_event_type = 'Lock'`
  return row?.waiting ?? 0
}
const waiting = (count: number) => until(async () => (await countWaiting()) >= count, `${count} wait for a lock`)

const one = hashOf('one')

describe('an object', () => {
  test('is an orphan when the last who referred to it is gone, and then let go, once', async () => {
    const [first, second] = [await keep(one), await keep(one)]
    expect(await store.listOrphans(10)).toEqual([])
    await remove(first)
    expect(await store.listOrphans(10)).toEqual([one])
    expect([await letGo(one), await isThere(one), await store.listOrphans(10)]).toEqual([false, true, []])
    await remove(second)
    expect(await Promise.all([letGo(one), letGo(one), letGo(one)]).then((all) => all.filter(Boolean))).toEqual([true])
    expect([await isThere(one), await store.listOrphans(10)]).toEqual([false, []])
  })

  test('that cannot go waits behind all others', async () => {
    const two = hashOf('two')
    for (const media of [await keep(one), await keep(two)]) await remove(media)
    expect(await store.listOrphans(10)).toEqual([one, two])
    await store.postponeSweep(one)
    expect(await store.listOrphans(1)).toEqual([two])
    expect([await letGo(one), await letGo(two)]).toEqual([true, true])
  })

  test('of a generation is an orphan when that is deleted', async () => {
    const generation = newId()
    await sql`insert into generations (id, owner_id, model, prompt) values (${generation}, ${owner}, 'm', 'p')`
    await publish(await claim(one), { ...upload(one), generation_id: generation, position: 0 })
    await sql`delete from generations where id = ${generation}`
    expect(await store.listOrphans(10)).toEqual([one])
  })

  test('stays an orphan when its bytes cannot be taken away', async () => {
    await remove(await keep(one))
    const refused = new Error('no disk')
    expect(await letGo(one, () => Promise.reject(refused)).catch((error: unknown) => error)).toBe(refused)
    expect([await isThere(one), await store.listOrphans(10)]).toEqual([true, [one]])
  })

  test('that is claimed is not let go; what was claimed for long, and given up, is', async () => {
    const [kept, given] = [await claim(one), await claim(one)]
    await store.discard([given])
    expect([await letGo(one), await isThere(one)]).toEqual([false, true])
    await store.discardExpired(60_000)
    expect(await store.listOrphans(10)).toEqual([])
    await sql`update media_claims set claimed_at = now() - interval '2 minutes' where id = ${kept}`
    await store.discardExpired(60_000)
    expect(await store.listOrphans(10)).toEqual([one])
    expect([await letGo(one), await isThere(one)]).toEqual([true, false])
    // Too late for whoever had it.
    expect(await publish(kept, upload(one))).toBe(false)
  })

  test('that a job is made from stays until the job is over, and is looked at then', async () => {
    const media = await keep(one)
    const generation = newId()
    await sql`
      insert into generations (id, owner_id, model, prompt, reference_media_id)
      values (${generation}, ${owner}, 'm', 'p', ${media.id})`
    await sql`insert into generation_jobs (generation_id, priority, reference_sha256) values (${generation}, 1, ${one})`
    await remove(media)
    expect([await letGo(one), await isThere(one), await store.listOrphans(10)]).toEqual([false, true, []])
    const [row] = await sql`select reference_media_id from generations where id = ${generation}`
    expect(row).toEqual({ reference_media_id: null })
    await sql`delete from generation_jobs where generation_id = ${generation}`
    expect(await store.listOrphans(10)).toEqual([one])
    expect(await letGo(one)).toBe(true)
  })
})

describe('at the same moment', () => {
  test('whoever claims what is being let go waits, and then claims it anew', async () => {
    await remove(await keep(one))
    const begun = Promise.withResolvers<void>()
    const gone = Promise.withResolvers<void>()
    const going = letGo(one, () => {
      begun.resolve()
      return gone.promise
    })
    await begun.promise
    const claiming = claim(one)
    await waiting(1)
    gone.resolve()
    expect(await going).toBe(true)
    const id = await claiming
    expect([await isThere(one), await letGo(one)]).toEqual([true, false])
    expect(await publish(id, upload(one))).toBe(true)
  })

  test('they wait also for longer than a transaction of its pool may otherwise be idle', async () => {
    await remove(await keep(one))
    const impatient = connect(database.connection, {
      max: 2,
      connection: { idle_in_transaction_session_timeout: 2_000 },
    })
    const begun = Promise.withResolvers<void>()
    const gone = Promise.withResolvers<void>()
    const going = createMediaStore(sql, impatient).deleteOrphan(one, () => {
      begun.resolve()
      return gone.promise
    })
    going.catch(() => {})
    await begun.promise
    const claiming = claim(one)
    await waiting(1)
    // Idle from now on, and ended for it: whatever was idle before and may not be so for longer is ended too.
    await impatient.begin(() => new Promise(() => {})).catch(() => {})
    expect(await countWaiting()).toBe(1)
    gone.resolve()
    expect(await going).toBe(true)
    expect(await publish(await claiming, upload(one))).toBe(true)
    const [left] = await impatient`select current_setting('idle_in_transaction_session_timeout') as "limit"`
    expect(left).toEqual({ limit: '2s' })
    await impatient.end()
  })

  test('whoever keeps anew what could not all be taken away keeps it, however late the rest goes', async () => {
    const bytes = new Uint8Array([1])
    const held = new Map([[objectKey(one), bytes]])
    const slow = Promise.withResolvers<void>()
    let begun = false
    const mediaStorage = createMediaStorage({
      store,
      images: {} as Parameters<typeof createMediaStorage>[0]['images'],
      objects: {
        open: async () => undefined,
        put: async (key) => void held.set(key, bytes),
        delete: async (key) => {
          if (key !== objectKey(one)) throw new Error('503 SlowDown')
          begun = true
          await slow.promise
          held.delete(key)
        },
      },
      clock: systemClock,
      log: createLog('silent'),
    })
    await remove(await keep(one))
    const sweep = mediaStorage.sweep()
    await until(() => begun, 'it is being taken away')
    const picture = {
      bytes,
      contentType: 'image/png',
      width: 1,
      height: 1,
      durationMs: null,
      sha256: one,
      thumbnails: [],
    }
    const made = { claimId: newId(), ...picture }
    let kept = false
    const keeping = mediaStorage.put([made]).then(() => {
      kept = true
    })
    await until(async () => kept || (await countWaiting()) > 0, 'it is kept anew, or is to wait')
    slow.resolve()
    await Promise.all([sweep, keeping])
    await inside((tx) => mediaStorage.confirm(tx, { generationId: null, ownerId: owner }, [made]))
    expect([await isThere(one), held.has(objectKey(one))]).toEqual([true, true])
    // What failed has not been forgotten.
    expect(await store.listOrphans(10)).toEqual([one])
    await mediaStorage.close()
  })

  test('what is being published is not let go, however far that has come', async () => {
    const old = await keep(one)
    const id = await claim(one)
    await remove(old)
    const end = await holding(async (tx) => {
      expect(await store.confirm(tx, [id])).toBe(true)
    })
    expect([await letGo(one), await isThere(one)]).toEqual([false, true])
    await end()
    const again = await claim(one)
    const published = await holding(async (tx) => {
      await store.confirm(tx, [again])
      await store.insert(tx, [upload(one)])
    })
    await sql`insert into media_orphans (sha256) values (${one}) on conflict do nothing`
    expect(await letGo(one)).toBe(false)
    await published()
    expect([await letGo(one), await isThere(one)]).toEqual([false, true])
  })

  test('what is given up while it is looked at is looked at again', async () => {
    // Two rows: the first is gone, so that it is in the queue; the second is being deleted, and not yet.
    const [first, last] = [await keep(one), await keep(one)]
    await remove(first)
    const end = await holding((tx) => store.remove(tx, last.id))
    expect([await letGo(one), await isThere(one)]).toEqual([false, true])
    await end()
    expect(await store.listOrphans(10)).toEqual([one])
    expect(await letGo(one)).toBe(true)
  })

  test('many who upload, delete and sweep the same few leave bytes for every row, and no bytes without one', async () => {
    const names = ['a', 'b', 'c'].map(hashOf)
    const bytes = new Set<string>()
    const rows = new Map<string, NewMedia>()
    let going = true
    const uploading = async (seed: number) => {
      for (let round = 0; round < 60; round += 1) {
        const sha256 = names[(seed + round) % names.length] as string
        const id = await claim(sha256)
        bytes.add(sha256)
        await Bun.sleep(0)
        if (round % 5 === 4) {
          await store.discard([id])
          continue
        }
        const media = upload(sha256)
        expect(await publish(id, media)).toBe(true)
        expect(bytes.has(sha256)).toBe(true)
        rows.set(media.id, media)
        if (round % 3 === 0) continue
        rows.delete(media.id)
        await remove(media)
      }
    }
    const sweep = async () => {
      for (const sha256 of await store.listOrphans(10)) {
        await letGo(sha256, async () => {
          await Bun.sleep(1)
          bytes.delete(sha256)
        })
      }
    }
    const sweeping = async () => {
      while (going) {
        await sweep()
        await Bun.sleep(1)
      }
    }
    const sweepers = [sweeping(), sweeping()]
    await Promise.all([0, 1, 2, 3, 4].map(uploading))
    for (const media of rows.values()) expect(bytes.has(media.sha256)).toBe(true)
    await Promise.all([...rows.values()].slice(1).map(remove))
    const [left] = rows.values()
    going = false
    await Promise.all(sweepers)
    await sweep()
    const kept = (await sql<{ sha256: string }[]>`select sha256 from media_objects`).map(({ sha256 }) => sha256)
    expect([kept, [...bytes], await store.listOrphans(10)]).toEqual([[left?.sha256 ?? ''], [left?.sha256 ?? ''], []])
  }, 60_000)
})
