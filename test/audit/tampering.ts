import { type AuditProblem, verifyAudit } from '../../src/audit/verify.ts'
import { createVerifyStore } from '../../src/audit/verify-store.ts'
import type { Sql, TransactionSql } from '../../src/platform/postgres.ts'

import type { AuditLog } from './log.ts'

type Row = { sequence: number; id: string }
export type Tampering = {
  readonly name: string
  /** Changes the log behind its back. Returns what must be found, each with its place. */
  readonly tamper: (
    sql: TransactionSql,
    rows: { at: (sequence: number) => Row; last: number },
  ) => Promise<Partial<AuditProblem>[]>
  readonly needsHead?: boolean
  /** An event is only to be linked once its transaction is over. */
  readonly needsCommit?: boolean
}

/** What someone with every right in the database could do, in each form of the row. `middle` is a row among all. */
export const tamperings: readonly Tampering[] = [
  {
    name: 'one byte of an event is flipped',
    tamper: async (sql, { at, last }) => {
      const { id, sequence } = at(Math.ceil(last / 2))
      await sql`update audit_events set after = replace(after::text, 'name', 'nbme')::json where id = ${id}`
      return [{ problem: 'event_altered', sequence, event_id: id }]
    },
  },
  {
    name: 'the time of an event is moved by a microsecond',
    tamper: async (sql, { at }) => {
      const { id, sequence } = at(3)
      await sql`update audit_events set at = at + interval '1 microsecond' where id = ${id}`
      return [
        { problem: 'event_removed', sequence, event_id: id },
        { problem: 'event_inserted', event_id: id },
      ]
    },
  },
  {
    name: 'one event is deleted',
    tamper: async (sql, { at, last }) => {
      const { id, sequence } = at(last - 5)
      await sql`delete from audit_events where id = ${id}`
      return [{ problem: 'event_removed', sequence, event_id: id }]
    },
  },
  {
    name: 'one event is deleted with its link',
    tamper: async (sql, { at }) => {
      const { id, sequence } = at(7)
      await sql`delete from audit_events where id = ${id}`
      await sql`delete from audit_links where event_id = ${id}`
      return [{ problem: 'links_removed', sequence, to: sequence }]
    },
  },
  {
    name: 'the values of two events are swapped',
    tamper: async (sql, { at }) => {
      const [one, other] = [at(10), at(20)]
      await sql`
        update audit_events e set target_id = o.target_id, mac = o.mac
          from audit_events o
         where (e.id, o.id) in ((${one.id}::uuid, ${other.id}::uuid), (${other.id}::uuid, ${one.id}::uuid))`
      return [one, other].map(({ id, sequence }) => ({ problem: 'event_altered', sequence, event_id: id }))
    },
  },
  {
    name: 'the links of two events are swapped',
    tamper: async (sql, { at }) => {
      const [one, other] = [at(10), at(20)]
      await sql`
        update audit_links l set event_id = o.event_id, event_at = o.event_at, row_hash = o.row_hash
          from audit_links o
         where (l.event_id, o.event_id) in ((${one.id}::uuid, ${other.id}::uuid), (${other.id}::uuid, ${one.id}::uuid))`
      return [
        { problem: 'link_altered', sequence: one.sequence },
        { problem: 'link_altered', sequence: other.sequence },
      ]
    },
  },
  {
    name: 'an event is inserted among the others',
    tamper: async (sql, { at }) => {
      const [row] = await sql<{ id: string }[]>`
        insert into audit_events (id, at, xid, action, actor_kind, target_type, request_id, mac)
        select gen_random_uuid(), at, xid, action, actor_kind, target_type, request_id, mac from audit_events where id = ${at(30).id}
        returning id`
      return [{ problem: 'event_inserted', event_id: row?.id ?? '' }]
    },
  },
  {
    name: 'an event is inserted after the others',
    needsCommit: true,
    tamper: async (sql, { at }) => {
      const [row] = await sql<{ id: string }[]>`
        insert into audit_events (id, action, actor_kind, target_type, request_id, mac)
        select gen_random_uuid(), action, actor_kind, target_type, request_id, mac from audit_events where id = ${at(30).id}
        returning id`
      return [{ problem: 'event_not_authentic', event_id: row?.id ?? '' }]
    },
  },
  {
    name: 'a genuine event is stored a second time',
    needsCommit: true,
    tamper: async (sql, { at }) => {
      const { id } = at(31)
      await sql`
        insert into audit_events (id, action, actor_kind, actor_id, session_id, target_type, target_id, request_id, after,
                                  details_hash, mac)
        select id, action, actor_kind, actor_id, session_id, target_type, target_id, request_id, after, details_hash, mac
          from audit_events where id = ${id}`
      return [{ problem: 'event_repeated', event_id: id }]
    },
  },
  {
    name: 'the personal data of an event are changed',
    tamper: async (sql, { at }) => {
      const { id, sequence } = at(40)
      await sql`update audit_details set details = replace(details, '203.0.113.7', '203.0.113.8') where event_id = ${id}`
      return [{ problem: 'details_altered', sequence, event_id: id }]
    },
  },
  {
    name: 'the personal data of an event are deleted though its account is open',
    tamper: async (sql, { at }) => {
      const { id, sequence } = at(41)
      await sql`delete from audit_details where event_id = ${id}`
      return [{ problem: 'details_removed', sequence, event_id: id }]
    },
  },
  {
    name: 'the last ten events are cut off',
    tamper: async (sql, { at, last }) => {
      await sql`delete from audit_events where id in (select event_id from audit_links where sequence > ${last - 10})`
      await sql`delete from audit_links where sequence > ${last - 10}`
      return [{ problem: 'links_removed', sequence: at(last - 10).sequence + 1, to: last }]
    },
  },
  {
    name: 'the last ten events are cut off, the head and all, and a kept head is given',
    needsHead: true,
    tamper: async (sql, { at, last }) => {
      await sql`delete from audit_events where id in (select event_id from audit_links where sequence > ${last - 10})`
      await sql`delete from audit_links where sequence > ${last - 10}`
      await sql`delete from audit_heads`
      return [{ problem: 'links_removed', sequence: at(last - 10).sequence + 1, to: last }, { problem: 'head_missing' }]
    },
  },
  {
    name: 'the signed head is changed',
    tamper: async (sql) => {
      await sql`update audit_heads set token = overlay(token placing 'A' from 90 for 1)`
      return [{ problem: 'head_not_authentic' }]
    },
  },
]

type Rows = Parameters<Tampering['tamper']>[1]

/** The linked events, by their place in the chain. */
export const findRows = async (sql: Sql): Promise<Rows> => {
  const rows = await sql<Row[]>`select sequence::int, event_id as id from audit_links order by sequence`
  return { at: (sequence) => rows[sequence - 1] as Row, last: rows.length }
}

/** Tampers and verifies in one transaction, which is rolled back. */
export const tamperAndVerify = async (
  sql: Sql,
  { tamper, needsHead = false }: Tampering,
  log: Pick<AuditLog, 'keys' | 'source' | 'head'>,
): Promise<{ expected: Partial<AuditProblem>[]; found: readonly AuditProblem[] }> => {
  const rows = await findRows(sql)
  const head = await log.head()
  const rolledBack = new Error('rolled back')
  let expected: Partial<AuditProblem>[] = []
  let found: readonly AuditProblem[] = []
  await sql
    .begin(async (tx) => {
      expected = await tamper(tx, rows)
      const { keys, source } = log
      const dependencies = { store: createVerifyStore(tx), keys, macOf: source.macOf }
      found = (await verifyAudit(dependencies, { heads: needsHead ? [head] : [] })).problems
      throw rolledBack
    })
    .catch((error) => {
      if (error !== rolledBack) throw error
    })
  return { expected, found }
}
