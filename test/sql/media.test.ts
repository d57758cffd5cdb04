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
    values (${owner}, 'user@example.com', 'A user', 'x')`
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
/** Stores an object with a media row. */
const addMedia = async (sha256: string) => {
  const media = upload(sha256)
  expect(await publish(await claim(sha256), media)).toBe(true)
  return media
}
const remove = ({ id }: NewMedia) => inside((tx) => store.remove(tx, id))
const isThere = async (sha256: string) => (await sql`select from media_objects where sha256 = ${sha256}`).length === 1
const sweep = (sha256: string, work = async () => {}) => store.deleteOrphan(sha256, work)
/** Runs `work` in a transaction that stays open until the returned function is called. */
const keepOpen = async (work: (tx: TransactionSql) => Promise<unknown>) => {
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
const waiting = (count: number) =>
  until(async () => (await countWaiting()) >= count, `${count} transactions wait for a lock`)

const one = hashOf('one')

describe('an object', () => {
  test('is an orphan when its last reference is deleted, and is swept exactly once', async () => {
    const [first, second] = [await addMedia(one), await addMedia(one)]
    expect(await store.listOrphans(10)).toEqual([])
    await remove(first)
    expect(await store.listOrphans(10)).toEqual([one])
    expect([await sweep(one), await isThere(one), await store.listOrphans(10)]).toEqual([false, true, []])
    await remove(second)
    expect(await Promise.all([sweep(one), sweep(one), sweep(one)]).then((all) => all.filter(Boolean))).toEqual([true])
    expect([await isThere(one), await store.listOrphans(10)]).toEqual([false, []])
  })

  test('whose sweep is postponed goes behind all other orphans', async () => {
    const two = hashOf('two')
    for (const media of [await addMedia(one), await addMedia(two)]) await remove(media)
    expect(await store.listOrphans(10)).toEqual([one, two])
    await store.postponeSweep(one)
    expect(await store.listOrphans(1)).toEqual([two])
    expect([await sweep(one), await sweep(two)]).toEqual([true, true])
  })

  test('of a generation is an orphan when the generation is deleted', async () => {
    const generation = newId()
    await sql`insert into generations (id, owner_id, model, prompt) values (${generation}, ${owner}, 'm', 'p')`
    await publish(await claim(one), { ...upload(one), generation_id: generation, position: 0 })
    await sql`delete from generations where id = ${generation}`
    expect(await store.listOrphans(10)).toEqual([one])
  })

  test('stays an orphan when its bytes cannot be deleted', async () => {
    await remove(await addMedia(one))
    const refused = new Error('no disk')
    expect(await sweep(one, () => Promise.reject(refused)).catch((error: unknown) => error)).toBe(refused)
    expect([await isThere(one), await store.listOrphans(10)]).toEqual([true, [one]])
  })

  test('is not swept while it is claimed, and is swept once its claim is discarded or has expired', async () => {
    const [kept, given] = [await claim(one), await claim(one)]
    await store.discard([given])
    expect([await sweep(one), await isThere(one)]).toEqual([false, true])
    await store.discardExpired(60_000)
    expect(await store.listOrphans(10)).toEqual([])
    await sql`update media_claims set claimed_at = now() - interval '2 minutes' where id = ${kept}`
    await store.discardExpired(60_000)
    expect(await store.listOrphans(10)).toEqual([one])
    expect([await sweep(one), await isThere(one)]).toEqual([true, false])
    // Its claim has expired.
    expect(await publish(kept, upload(one))).toBe(false)
  })

  test('that is the reference of a job is kept until the job is over, and is an orphan then', async () => {
    const media = await addMedia(one)
    const generation = newId()
    await sql`
      insert into generations (id, owner_id, model, prompt, reference_media_id)
      values (${generation}, ${owner}, 'm', 'p', ${media.id})`
    await sql`insert into generation_jobs (generation_id, priority, reference_sha256) values (${generation}, 1, ${one})`
    await remove(media)
    expect([await sweep(one), await isThere(one), await store.listOrphans(10)]).toEqual([false, true, []])
    const [row] = await sql`select reference_media_id from generations where id = ${generation}`
    expect(row).toEqual({ reference_media_id: null })
    await sql`delete from generation_jobs where generation_id = ${generation}`
    expect(await store.listOrphans(10)).toEqual([one])
    expect(await sweep(one)).toBe(true)
  })
})

describe('concurrently with a sweep', () => {
  test('a claim of the object waits for the sweep and then stores it again', async () => {
    await remove(await addMedia(one))
    const begun = Promise.withResolvers<void>()
    const deleted = Promise.withResolvers<void>()
    const sweeping = sweep(one, () => {
      begun.resolve()
      return deleted.promise
    })
    await begun.promise
    const claiming = claim(one)
    await waiting(1)
    deleted.resolve()
    expect(await sweeping).toBe(true)
    const id = await claiming
    expect([await isThere(one), await sweep(one)]).toEqual([true, false])
    expect(await publish(id, upload(one))).toBe(true)
  })

  test('a claim waits even if the sweep is idle for longer than the idle timeout of its pool', async () => {
    await remove(await addMedia(one))
    const impatient = connect(database.connection, {
      max: 2,
      connection: { idle_in_transaction_session_timeout: 2_000 },
    })
    const begun = Promise.withResolvers<void>()
    const deleted = Promise.withResolvers<void>()
    const sweeping = createMediaStore(sql, impatient).deleteOrphan(one, () => {
      begun.resolve()
      return deleted.promise
    })
    sweeping.catch(() => {})
    await begun.promise
    const claiming = claim(one)
    await waiting(1)
    // This transaction is ended by the idle timeout, so any other that idles longer under it has been ended, too.
    await impatient.begin(() => new Promise(() => {})).catch(() => {})
    expect(await countWaiting()).toBe(1)
    deleted.resolve()
    expect(await sweeping).toBe(true)
    expect(await publish(await claiming, upload(one))).toBe(true)
    const [left] = await impatient`select current_setting('idle_in_transaction_session_timeout') as "limit"`
    expect(left).toEqual({ limit: '2s' })
    await impatient.end()
  })

  test('an object stored again during a sweep that partly fails keeps its bytes, even if deletions finish late', async () => {
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
    await remove(await addMedia(one))
    const sweeping = mediaStorage.sweep()
    await until(() => begun, 'the deletion has started')
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
    const storing = mediaStorage.put([made]).then(() => {
      kept = true
    })
    await until(async () => kept || (await countWaiting()) > 0, 'the object is stored again, or its claim waits')
    slow.resolve()
    await Promise.all([sweeping, storing])
    await inside((tx) => mediaStorage.confirm(tx, { generationId: null, ownerId: owner }, [made]))
    expect([await isThere(one), held.has(objectKey(one))]).toEqual([true, true])
    // The failed deletion is still to be done.
    expect(await store.listOrphans(10)).toEqual([one])
    await mediaStorage.close()
  })

  test('an object that is being published is not swept, before and after its claim is confirmed', async () => {
    const old = await addMedia(one)
    const id = await claim(one)
    await remove(old)
    const end = await keepOpen(async (tx) => {
      expect(await store.confirm(tx, [id])).toBe(true)
    })
    expect([await sweep(one), await isThere(one)]).toEqual([false, true])
    await end()
    const again = await claim(one)
    const published = await keepOpen(async (tx) => {
      await store.confirm(tx, [again])
      await store.insert(tx, [upload(one)])
    })
    await sql`insert into media_orphans (sha256) values (${one}) on conflict do nothing`
    expect(await sweep(one)).toBe(false)
    await published()
    expect([await sweep(one), await isThere(one)]).toEqual([false, true])
  })

  test('a reference removed while the object is being swept makes it an orphan again', async () => {
    // The first of two rows is deleted, so the object is an orphan; the deletion of the second is not committed yet.
    const [first, last] = [await addMedia(one), await addMedia(one)]
    await remove(first)
    const end = await keepOpen((tx) => store.remove(tx, last.id))
    expect([await sweep(one), await isThere(one)]).toEqual([false, true])
    await end()
    expect(await store.listOrphans(10)).toEqual([one])
    expect(await sweep(one)).toBe(true)
  })

  test('uploads and deletions of the same few objects leave bytes for every row, and no bytes without a row', async () => {
    const names = ['a', 'b', 'c'].map(hashOf)
    const bytes = new Set<string>()
    const rows = new Map<string, NewMedia>()
    let isRunning = true
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
    const sweepAll = async () => {
      for (const sha256 of await store.listOrphans(10)) {
        await sweep(sha256, async () => {
          await Bun.sleep(1)
          bytes.delete(sha256)
        })
      }
    }
    const sweeping = async () => {
      while (isRunning) {
        await sweepAll()
        await Bun.sleep(1)
      }
    }
    const sweepers = [sweeping(), sweeping()]
    await Promise.all([0, 1, 2, 3, 4].map(uploading))
    for (const media of rows.values()) expect(bytes.has(media.sha256)).toBe(true)
    await Promise.all([...rows.values()].slice(1).map(remove))
    const [left] = rows.values()
    isRunning = false
    await Promise.all(sweepers)
    await sweepAll()
    const kept = (await sql<{ sha256: string }[]>`select sha256 from media_objects`).map(({ sha256 }) => sha256)
    expect([kept, [...bytes], await store.listOrphans(10)]).toEqual([[left?.sha256 ?? ''], [left?.sha256 ?? ''], []])
  }, 60_000)
})
