import { createHash } from 'node:crypto'
import { readdir, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { thumbnailEdges } from '../../../src/media/images/images.ts'
import { createDiskObjects } from '../../../src/platform/disk-objects.ts'
import { objectKey } from '../../../src/platform/objects.ts'
import type { Sql } from '../../../src/platform/postgres.ts'
import { startApp, type TestConnection } from '../../harness.ts'
import type { OrderRecord } from './customers.ts'

/** Triggers that record, in the writing transaction, each end of a generation and each takeover of a job. */
export const recordEnds = (sql: Sql) =>
  sql.unsafe(`
    create table seen_ends (generation_id uuid, status text);
    create function see_end() returns trigger language plpgsql as $$
    begin insert into seen_ends values (new.id, new.status); return null; end $$;
    create trigger see_end after update of status on generations for each row
      when (new.status in ('completed', 'failed', 'cancelled')) execute function see_end();
    create table expired_leases (generation_id uuid, attempt integer);
    create table seen_takeovers (generation_id uuid, attempt integer);
    create function see_takeover() returns trigger language plpgsql as $$
    begin insert into seen_takeovers values (old.generation_id, old.attempt); return null; end $$;
    create trigger see_takeover after update of attempt on generation_jobs for each row
      when (old.worker is not null and new.attempt > old.attempt) execute function see_takeover();`)

type Row = {
  id: string
  owner_id: string
  /** Null: deleted. */
  status: string | null
  prompt: string | null
  media: number
  entries: string[] | null
  ends: string[]
}

const isOnly = (values: readonly string[], value: string) => values.length === 1 && values[0] === value

/** The violation in the rows of one order, if any. */
const findViolation = ({ status, entries, ends, media }: Row): string | undefined => {
  if (status !== null && !isOnly(ends, status)) return `ended as ${ends.join(', ') || 'nothing'} and is ${status}`
  if (ends.length > 1) return `ended as ${ends.join(', ')}`
  // Deleted before it ended.
  const [end = 'cancelled'] = ends
  const expected = `reserve, ${end === 'completed' ? 'settle' : 'refund'}`
  if (entries?.join(', ') !== expected) return `ended as ${end}, with entries ${entries?.join(', ') ?? 'none'}`
  const pictures = status === 'completed' ? 1 : 0
  return media === pictures ? undefined : `ended as ${end}, with ${media} pictures`
}

const inspectOrders = async (sql: Sql, orders: readonly OrderRecord[]) => {
  const rows = await sql<Row[]>`
    select each.id, g.owner_id, g.status, g.prompt,
           (select count(*)::int from media m where m.generation_id = each.id) as media,
           (select array_agg(l.kind order by l.id) from credit_ledger l where l.generation_id = each.id) as entries,
           coalesce((select array_agg(s.status) from seen_ends s where s.generation_id = each.id), '{}') as ends
      from (select id from generations union select generation_id from credit_ledger where generation_id is not null) each
      left join generations g on g.id = each.id`
  const violations = rows.flatMap((row) => {
    const violation = findViolation(row)
    return violation === undefined ? [] : [`${row.prompt ?? 'A deleted order'} (${row.id}) ${violation}`]
  })
  const byId = new Map(rows.map((row) => [row.id, row]))
  const report = (order: OrderRecord, violation: string) =>
    violations.push(`order ${order.number} (${order.id}) ${violation}`)
  for (const order of orders) {
    const row = byId.get(order.id ?? '')
    if (order.id === undefined) continue
    byId.delete(order.id)
    if (row === undefined) report(order, 'was accepted and is lost')
    else if (order.deleted) {
      if (row.status !== null) report(order, 'was deleted and still exists')
    } else if (row.prompt !== `order ${order.number}` || row.owner_id !== order.ownerId)
      report(order, 'has the content of another order')
    else if (order.cancelled && row.status !== 'cancelled') report(order, `was cancelled and is ${row.status}`)
  }
  // The remaining rows must be orders without a response, each once.
  const unanswered = new Set(orders.filter(({ id }) => id === undefined).map(({ number }) => `order ${number}`))
  const all = unanswered.size
  for (const { id, prompt } of byId.values()) {
    if (!unanswered.delete(prompt ?? '')) violations.push(`${prompt} (${id}) exists twice, or was never ordered`)
  }
  const ended: Record<string, number> = {}
  for (const { status } of rows) ended[status ?? 'deleted'] = (ended[status ?? 'deleted'] ?? 0) + 1
  return { violations, ended, accepted: rows.length, unanswered: { all, accepted: all - unanswered.size } }
}

const inspectLedger = async (sql: Sql, welcome: number): Promise<string[]> => {
  const rows = await sql<{ user_id: string; balance: number; entries: number; spent: number }[]>`
    select b.user_id, b.balance::int, (select sum(amount)::int from credit_ledger l where l.user_id = b.user_id) as entries,
           (select coalesce(sum(-r.amount), 0)::int from credit_ledger r join credit_ledger s using (generation_id)
             where r.user_id = b.user_id and r.kind = 'reserve' and s.kind = 'settle') as spent
      from credit_balances b`
  return rows
    .filter(({ balance, entries, spent }) => balance !== entries || balance !== welcome - spent)
    .map((row) => `The ledger of ${row.user_id} does not match its balance: ${JSON.stringify(row)}`)
}

const inspectObjects = async (sql: Sql, connection: TestConnection, folder: string) => {
  const objects = createDiskObjects({ directory: folder })
  const violations: string[] = []
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
  for (const key of await listAll()) if (!known.has(key.slice(3, 67))) violations.push(`${key} has no row`)

  const referenced = await sql<{ sha256: string; bytes: number }[]>`
    select sha256, bytes from media_objects where sha256 in (select sha256 from media)`
  const expectedKeys = referenced.flatMap(({ sha256 }) => [
    objectKey(sha256),
    ...thumbnailEdges.map((edge) => objectKey(sha256, String(edge))),
  ])
  for (const { sha256, bytes } of referenced) {
    const found = await objects.open(objectKey(sha256))
    const content = new Uint8Array(await new Response(found?.body).arrayBuffer())
    const hash = createHash('sha256').update(content).digest('hex')
    if (hash !== sha256 || content.length !== bytes) violations.push(`The bytes of ${sha256} are missing or differ`)
  }

  const sweeper = await startApp({ connection, config: { mediaDirectory: folder, dbConnections: 6 } })
  await sql`update media_claims set claimed_at = claimed_at - interval '2 hours'`
  for (let before = Number.POSITIVE_INFINITY; (await rowsOfObjects()).size < before; ) {
    before = (await rowsOfObjects()).size
    await sweeper.services.mediaStorage.sweep()
  }
  await sweeper.close()
  const left = await listAll()
  for (const key of left) if (!expectedKeys.includes(key)) violations.push(`${key} is an orphan that was not swept`)
  for (const key of expectedKeys) if (!left.includes(key)) violations.push(`${key} is missing, and media refers to it`)
  if ((await rowsOfObjects()).size !== referenced.length) violations.push('Rows of orphans are left after the sweep')

  // Drafts of killed writers: the first write after a day removes them.
  const drafts = join(folder, 'drafts')
  const names = await readdir(drafts)
  const longAgo = new Date(Date.now() - 2 * 86_400_000)
  for (const name of names) await utimes(join(drafts, name), longAgo, longAgo)
  const [any] = referenced
  if (any !== undefined) {
    const restarted = createDiskObjects({ directory: folder })
    const found = await restarted.open(objectKey(any.sha256))
    await restarted.put(
      objectKey(any.sha256),
      new Uint8Array(await new Response(found?.body).arrayBuffer()),
      'image/png',
    )
    if ((await readdir(drafts)).length > 0) violations.push('Old drafts were not removed')
  }
  return { violations, swept: known.size - referenced.length, objects: referenced.length, drafts: names.length }
}

/** Inspects the outcome after the last job has ended: figures, and violations of the guarantees. */
export const inspect = async (
  { sql, connection, folder }: { sql: Sql; connection: TestConnection; folder: string },
  orders: readonly OrderRecord[],
  welcome: number,
) => {
  const orderReport = await inspectOrders(sql, orders)
  const ledgerViolations = await inspectLedger(sql, welcome)
  const objectReport = await inspectObjects(sql, connection, folder)
  const [row] = await sql<{ afterKills: number; afterExpiredLeases: number; left: number }[]>`
    select count(*) filter (where s.attempt is null)::int as "afterKills",
           count(s.attempt)::int as "afterExpiredLeases",
           (select count(*)::int from generation_jobs) as left
      from seen_takeovers t left join expired_leases s using (generation_id, attempt)`
  const unended = row?.left === 0 ? [] : [`${row?.left} jobs have not ended`]
  return {
    ...orderReport,
    ...objectReport,
    takeovers: { afterKills: row?.afterKills ?? 0, afterExpiredLeases: row?.afterExpiredLeases ?? 0 },
    violations: [...unended, ...orderReport.violations, ...ledgerViolations, ...objectReport.violations],
  }
}
