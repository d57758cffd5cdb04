import { Buffer } from 'node:buffer'
import { createHash } from 'node:crypto'
import { contentOf, type NewEvent } from './event.ts'

/*
 * The hash chain. Its formats are documented in src/audit/README.md, so that others can verify an export without this program.
 *
 * Each month (UTC) has a chain of its own, so that a month can be dropped and the others still be verified. The first link of a
 * month follows the head that the month before had at that moment.
 */

/** A row of audit_events as it is read: `at` with microseconds, `before` and `after` as text. */
export type EventRow = Omit<NewEvent, 'action' | 'actor_kind'> & {
  readonly action: string
  readonly actor_kind: string
  readonly at: string
  readonly xid: string
  readonly mac: Uint8Array
}

/** The newest link of a chain. */
export type Position = { readonly month: string; readonly sequence: number; readonly hash: string }

/** A position, and the head of the month before when the first link was made. */
export type Head = Position & {
  readonly opens: Position | null
  /** The events of the month are gone, because their time was over. */
  readonly dropped?: boolean
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')

/** The hash of everything that a row holds. */
export const hashOfRow = (row: EventRow): string =>
  sha256(JSON.stringify([contentOf(row), row.at, row.xid, Buffer.from(row.mac).toString('hex')]))

/** The hash that the first link of a month follows. */
export const hashOfOpening = (month: string, opens: Position | null): string =>
  sha256(
    JSON.stringify([
      'velro-audit-opening-1',
      month,
      opens?.month ?? null,
      opens?.sequence ?? null,
      opens?.hash ?? null,
    ]),
  )

export const hashOfLink = (month: string, sequence: number, previous: string, rowHash: string): string =>
  sha256(JSON.stringify(['velro-audit-link-1', month, sequence, previous, rowHash]))

/** What a link follows where the chain began anew, because its head was missing or changed. */
export const unknownPrevious = '0'.repeat(64)

/** The chain of an event: the first moment of its month. */
export const monthOf = (at: string): string => `${at.slice(0, 7)}-01T00:00:00.000Z`

export type Link = {
  readonly month: string
  readonly sequence: number
  readonly event_id: string
  readonly event_at: string
  readonly row_hash: string
  readonly hash: string
}

/** Appends rows to the chain of a month. `previous`: the hash that the first of them follows. */
export const linkRows = (
  month: string,
  { sequence, previous }: { readonly sequence: number; readonly previous: string },
  rows: readonly EventRow[],
): Link[] => {
  const links: Link[] = []
  let [at, before] = [sequence, previous]
  for (const row of rows) {
    at += 1
    const row_hash = hashOfRow(row)
    before = hashOfLink(month, at, before, row_hash)
    links.push({ month, sequence: at, event_id: row.id, event_at: row.at, row_hash, hash: before })
  }
  return links
}

const isPosition = (value: unknown): value is Position =>
  typeof value === 'object' &&
  value !== null &&
  'month' in value &&
  typeof value.month === 'string' &&
  'sequence' in value &&
  typeof value.sequence === 'number' &&
  'hash' in value &&
  typeof value.hash === 'string'

/** The head in a verified statement. */
export const toHead = (statement: unknown): Head | undefined => {
  if (!isPosition(statement)) return undefined
  const opens = 'opens' in statement && isPosition(statement.opens) ? statement.opens : null
  const dropped = 'dropped' in statement && statement.dropped === true
  return {
    month: statement.month,
    sequence: statement.sequence,
    hash: statement.hash,
    opens,
    ...(dropped && { dropped }),
  }
}

/** The types of signed statements. A checkpoint states that a link exists, a head also that it was the newest. */
export const headType = 'velro-audit-head'
export const checkpointType = 'velro-audit-checkpoint'
