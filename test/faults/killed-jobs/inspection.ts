import { createHash } from 'node:crypto'
import { readdir, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { thumbnailEdges } from '../../../src/media/images/images.ts'
import { createDiskObjects } from '../../../src/platform/disk-objects.ts'
import { objectKey } from '../../../src/platform/objects.ts'
import type { Sql } from '../../../src/platform/postgres.ts'
import { startApp, type TestConnection } from '../../harness.ts'
import type { Told } from './customers.ts'

/** Tables of their own keep, by the transactions that do it, each end of a generation and each job that changes hands. */
export const keepWatch = (sql: Sql) =>
  sql.unsafe(`
    create table seen_ends (generation_id uuid, status text);
    create function see_end() returns trigger language plpgsql as $$
    begin insert into seen_ends values (new.id, new.status); return null; end $$;
    create trigger see_end after update of status on generations for each row
      when (new.status in ('completed', 'failed', 'cancelled')) execute function see_end();
    create table seen_steals (generation_id uuid, attempt integer);
    create table seen_takeovers (generation_id uuid, attempt integer);
    create function see_takeover() returns trigger language plpgsql as $$
    begin insert into seen_takeovers values (old.generation_id, old.attempt); return null; end $$;
    create trigger see_takeover after update of attempt on generation_jobs for each row
      when (old.worker is not null and new.attempt > old.attempt) execute function see_takeover();`)

type Row = {
  id: string
  owner_id: string
  /** Null: it is deleted. */
  status: string | null
  prompt: string | null
  media: number
  entries: string[] | null
  ends: string[]
}

const isOne = (of: readonly string[], what: string) => of.length === 1 && of[0] === what

/** What is wrong with one, whoever was told what. */
const judge = ({ status, entries, ends, media }: Row): string | undefined => {
  if (status !== null && !isOne(ends, status)) return `ended as ${ends.join(', ') || 'nothing'} and is ${status}`
  if (ends.length > 1) return `ended as ${ends.join(', ')}`
  // Deleted before it was over.
  const [end = 'cancelled'] = ends
  const due = `reserve, ${end === 'completed' ? 'settle' : 'refund'}`
  if (entries?.join(', ') !== due) return `ended as ${end}, with entries ${entries?.join(', ') ?? 'of nothing'}`
  const pictures = status === 'completed' ? 1 : 0
  return media === pictures ? undefined : `ended as ${end}, with ${media} pictures`
}

const inspectOrders = async (sql: Sql, told: readonly Told[]) => {
  const rows = await sql<Row[]>`
    select each.id, g.owner_id, g.status, g.prompt,
           (select count(*)::int from media m where m.generation_id = each.id) as media,
           (select array_agg(l.kind order by l.id) from credit_ledger l where l.generation_id = each.id) as entries,
           coalesce((select array_agg(s.status) from seen_ends s where s.generation_id = each.id), '{}') as ends
      from (select id from generations union select generation_id from credit_ledger where generation_id is not null) each
      left join generations g on g.id = each.id`
  const wrong = rows.flatMap((row) => {
    const what = judge(row)
    return what === undefined ? [] : [`${row.prompt ?? 'A deleted order'} (${row.id}) ${what}`]
  })
  const byId = new Map(rows.map((row) => [row.id, row]))
  const tell = (order: Told, what: string) => wrong.push(`order ${order.number} (${order.id}) ${what}`)
  for (const order of told) {
    const row = byId.get(order.id ?? '')
    if (order.id === undefined) continue
    byId.delete(order.id)
    if (row === undefined) tell(order, 'was accepted and is lost')
    else if (order.deleted) {
      if (row.status !== null) tell(order, 'was deleted and is there')
    } else if (row.prompt !== `order ${order.number}` || row.owner_id !== order.ownerId) tell(order, 'is another')
    else if (order.cancelled && row.status !== 'cancelled') tell(order, `was cancelled and is ${row.status}`)
  }
  // What is left must be what nobody was told about, each once.
  const unanswered = new Set(told.filter(({ id }) => id === undefined).map(({ number }) => `order ${number}`))
  const all = unanswered.size
  for (const { id, prompt } of byId.values()) {
    if (!unanswered.delete(prompt ?? '')) wrong.push(`${prompt} (${id}) is there twice, or was ordered by nobody`)
  }
  const ended: Record<string, number> = {}
  for (const { status } of rows) ended[status ?? 'deleted'] = (ended[status ?? 'deleted'] ?? 0) + 1
  return { wrong, ended, accepted: rows.length, unanswered: { all, accepted: all - unanswered.size } }
}

const inspectBooks = async (sql: Sql, welcome: number): Promise<string[]> => {
  const rows = await sql<{ user_id: string; balance: number; entries: number; spent: number }[]>`
    select b.user_id, b.balance::int, (select sum(amount)::int from credit_ledger l where l.user_id = b.user_id) as entries,
           (select coalesce(sum(-r.amount), 0)::int from credit_ledger r join credit_ledger s using (generation_id)
             where r.user_id = b.user_id and r.kind = 'reserve' and s.kind = 'settle') as spent
      from credit_balances b`
  return rows
    .filter(({ balance, entries, spent }) => balance !== entries || balance !== welcome - spent)
    .map((row) => `The books of ${row.user_id} are wrong: ${JSON.stringify(row)}`)
}

const inspectObjects = async (sql: Sql, connection: TestConnection, folder: string) => {
  const objects = createDiskObjects({ directory: folder })
  const wrong: string[] = []
  const listAll = async () => {
    const keys: string[] = []
    for (let after: string | undefined = ''; after !== undefined; ) {
      const page = await objects.list('', after)
      keys.push(...page.objects.map(({ key }) => key))
      after = page.next
    }
    return keys
  }
  const rowsOfObjects = async () =>
    new Set((await sql<{ sha256: string }[]>`select sha256 from media_objects`).map((row) => row.sha256))
  const known = await rowsOfObjects()
  for (const key of await listAll()) if (!known.has(key.slice(3, 67))) wrong.push(`Nobody knows of ${key}`)

  const kept = await sql<{ sha256: string; bytes: number }[]>`
    select sha256, bytes from media_objects where sha256 in (select sha256 from media)`
  const due = kept.flatMap(({ sha256 }) => [
    objectKey(sha256),
    ...thumbnailEdges.map((edge) => objectKey(sha256, String(edge))),
  ])
  for (const { sha256, bytes } of kept) {
    const found = await objects.open(objectKey(sha256))
    const content = new Uint8Array(await new Response(found?.stream).arrayBuffer())
    const hash = createHash('sha256').update(content).digest('hex')
    if (hash !== sha256 || content.length !== bytes) wrong.push(`The bytes of ${sha256} are not there`)
  }

  const sweeper = await startApp({ connection, config: { mediaDirectory: folder, dbConnections: 6 } })
  await sql`update media_claims set claimed_at = claimed_at - interval '2 hours'`
  for (let before = Number.POSITIVE_INFINITY; (await rowsOfObjects()).size < before; ) {
    before = (await rowsOfObjects()).size
    await sweeper.services.mediaStorage.sweep()
  }
  await sweeper.close()
  const left = await listAll()
  for (const key of left) if (!due.includes(key)) wrong.push(`${key} is left, and nothing refers to it`)
  for (const key of due) if (!left.includes(key)) wrong.push(`${key} is gone, and a picture refers to it`)
  if ((await rowsOfObjects()).size !== kept.length) wrong.push('Not all that nothing refers to was let go')

  // What was being written when its writer was killed; a day later it goes with the first that is written.
  const drafts = join(folder, 'drafts')
  const names = await readdir(drafts)
  const longAgo = new Date(Date.now() - 2 * 86_400_000)
  for (const name of names) await utimes(join(drafts, name), longAgo, longAgo)
  const [any] = kept
  if (any !== undefined) {
    const anew = createDiskObjects({ directory: folder })
    const found = await anew.open(objectKey(any.sha256))
    await anew.put(objectKey(any.sha256), new Uint8Array(await new Response(found?.stream).arrayBuffer()), 'image/png')
    if ((await readdir(drafts)).length > 0) wrong.push('Old drafts are left')
  }
  return { wrong, swept: known.size - kept.length, objects: kept.length, drafts: names.length }
}

/** What came of it all, once no job is left; and what is not as it must be. */
export const inspect = async (
  { sql, connection, folder }: { sql: Sql; connection: TestConnection; folder: string },
  told: readonly Told[],
  welcome: number,
) => {
  const orders = await inspectOrders(sql, told)
  const books = await inspectBooks(sql, welcome)
  const stored = await inspectObjects(sql, connection, folder)
  const [row] = await sql<{ afterKills: number; afterSteals: number; left: number }[]>`
    select count(*) filter (where s.attempt is null)::int as "afterKills",
           count(s.attempt)::int as "afterSteals",
           (select count(*)::int from generation_jobs) as left
      from seen_takeovers t left join seen_steals s using (generation_id, attempt)`
  const unended = row?.left === 0 ? [] : [`${row?.left} jobs are not over`]
  return {
    ...orders,
    ...stored,
    takeovers: { afterKills: row?.afterKills ?? 0, afterSteals: row?.afterSteals ?? 0 },
    wrong: [...unended, ...orders.wrong, ...books, ...stored.wrong],
  }
}
