import type { Clock } from '../kit/clock.ts'
import { lowestId } from '../kit/cursor.ts'
import type { Log } from '../platform/log.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import {
  type EventRow,
  type Head,
  hashOfOpening,
  headType,
  type Link,
  linkRows,
  monthOf,
  unknownPrevious,
} from './chain.ts'
import {
  addCheckpoint,
  addKey,
  addLinks,
  type ChainStore,
  type Cursor,
  findLastLink,
  listAfter,
  listAuditKeys,
  listHeads,
  readCursor,
  setCursor,
  setHead,
} from './chain-store.ts'
import type { Recordings } from './event.ts'
import type { AuditKeys } from './keys.ts'

/** Interval of the background task. A row is linked once every transaction is over that began before its own ended. */
export const chainMs = 300
/** How often an instance that has recorded nothing looks for events of instances that are gone. */
const lookMs = 5_000
/** How long an instance looks for an event that it has recorded: as long as a request may take. */
const settleMs = 5_000
const maxRows = 2_000
const start: Cursor = { xid: '0', id: lowestId }
/** A link in this many is signed as well. */
const checkpointEvery = 4_096
/** How often the newest head is written to the log. */
const headLogMs = 60_000
/** From this age on, rows that cannot be linked yet are reported. */
const behindMs = 60_000

/** What a chain goes on from. `restarted`: its head was missing or changed. */
type Start = Pick<Head, 'sequence' | 'opens'> & { readonly previous: string; readonly restarted: boolean }

export type ChainFigures = {
  /** Links that this instance has made. */
  readonly linked: number
  /** Chains that this instance began anew, because their head was missing or changed. */
  readonly restarted: number
  /** How long the oldest row that is not linked has waited, as far as this instance knows. */
  readonly lagMs: number
}

type SignedHead = { readonly token: string; readonly head: Head }

/** The signed heads: reading them, and what chains go on from. `seen`: see `createChainer`. */
const createHeads = (keys: AuditKeys, seen: Map<string, SignedHead>) => {
  /** The verified heads, by month; undefined for one that no key of this service signed. */
  const readHeads = async (tx: TransactionSql): Promise<Map<string, Head | undefined>> => {
    const rows = await listHeads(tx)
    const isKnown = rows.every(({ month, token }) => seen.get(month)?.token === token)
    const auditKeys = isKnown ? [] : await listAuditKeys(tx)
    const heads = new Map<string, Head | undefined>()
    for (const { month, token } of rows) {
      const known = seen.get(month)
      const head = known?.token === token ? known.head : await keys.read(token, headType, auditKeys)
      const isOwn = head?.month === month
      if (isOwn && (known === undefined || head.sequence >= known.head.sequence)) seen.set(month, { token, head })
      heads.set(month, isOwn ? head : undefined)
    }
    return heads
  }

  const startOf = async (
    tx: TransactionSql,
    month: string,
    heads: ReadonlyMap<string, Head | undefined>,
  ): Promise<Start> => {
    // What this process has signed or seen counts for more than the table, where an older head may have been put back.
    const head = seen.get(month)?.head ?? heads.get(month)
    if (head !== undefined) return { ...head, previous: head.hash, restarted: false }
    const last = await findLastLink(tx, month)
    if (last === undefined && !heads.has(month)) {
      const before = [...heads].filter(([each, found]) => each < month && found !== undefined).map(([, found]) => found)
      const newest = before.at(-1)
      const opens = newest === undefined ? null : { month: newest.month, sequence: newest.sequence, hash: newest.hash }
      return { sequence: 0, opens, previous: hashOfOpening(month, opens), restarted: false }
    }
    return { sequence: last?.sequence ?? 0, opens: null, previous: unknownPrevious, restarted: true }
  }

  const signLinks = async (tx: TransactionSql, links: readonly Link[], opens: Head['opens'], now: string) => {
    const last = links.at(-1)
    if (last === undefined) return undefined
    for (const { month, sequence, hash } of links) {
      if (sequence % checkpointEvery !== 0) continue
      const token = await keys.signCheckpoint({ month, sequence, hash, opens: null }, now)
      await addCheckpoint(tx, { month, sequence, token })
    }
    const head: Head = { month: last.month, sequence: last.sequence, hash: last.hash, opens }
    const token = await keys.signHead(head, now)
    await setHead(tx, { month: last.month, token })
    return { token, head }
  }

  return { readHeads, startOf, signLinks }
}

/**
 * Links committed events into the hash chain of their month, and signs the newest link.
 *
 * Guarantee: each event is linked once, in the order of the transactions that inserted them, and only when no running transaction
 * can still insert one before it (`pg_snapshot_xmin`). So changes take no lock for the chain. One instance links at a time; where
 * it ends, the next one goes on from the signed head.
 *
 * A chain goes on from its signed head, never from the links: rows that were removed leave a gap for ever. Where the head itself is
 * missing or changed, the chain begins anew behind its last link, visibly: see `unknownPrevious`.
 *
 * Degrades: a transaction that stays open, in any database of the server, holds up the chain, not the changes; after a minute the
 * log says so.
 */
export const createChainer = ({
  store,
  keys,
  clock,
  log,
  recordings,
  onRestart = () => {},
  onMoved = () => {},
}: {
  store: ChainStore
  keys: AuditKeys
  clock: Clock
  log: Log
  recordings: Recordings
  onRestart?: (month: string) => void
  /** The database is on another server than when it was linked last: restored from a dump, or a copy. */
  onMoved?: () => void
}) => {
  /** The newest heads that this process has seen or signed, by month: a head in the database is never older. */
  const seen = new Map<string, SignedHead>()
  const knownKeys = new Set<string>()
  let figures = { linked: 0, restarted: 0 }
  let pendingSinceMs: number | undefined
  let logHeadAtMs = Number.NEGATIVE_INFINITY
  let warnAtMs = Number.NEGATIVE_INFINITY
  let lastNoted = 0
  let notedAtMs = Number.NEGATIVE_INFINITY
  /** How far a database on another server than before was looked through. */
  let movedTo: Cursor | undefined
  let lookedAtMs = Number.NEGATIVE_INFINITY
  let running: Promise<void> | undefined

  const { readHeads, startOf, signLinks } = createHeads(keys, seen)

  const linkIn = async (tx: TransactionSql) => {
    const { from, until, isMoved, now } = await readCursor(tx)
    const place = { from: isMoved ? (movedTo ?? start) : from, until: isMoved ? undefined : until }
    const read = await listAfter(tx, place, maxRows)
    const rows = read.filter(({ isLinked }) => !isLinked)
    const restarted: string[] = []
    const signed: SignedHead[] = []
    if (rows.length > 0) {
      const key = keys.current()
      if (!knownKeys.has(key.kid)) await addKey(tx, key)
      const heads = await readHeads(tx)
      for (const [month, own] of Map.groupBy(rows, ({ at }: EventRow) => monthOf(at))) {
        const start = await startOf(tx, month, heads)
        const links = linkRows(month, start, own)
        await addLinks(tx, links)
        const head = await signLinks(tx, links, start.opens, now)
        if (head !== undefined) signed.push(head)
        if (start.restarted) restarted.push(month)
      }
    }
    const last = read.at(-1)
    const isFull = read.length === maxRows && last !== undefined
    const next = isFull ? { xid: last.xid, id: last.id } : { xid: until, id: lowestId }
    // A moved database is looked through from its first row to its last before its cursor counts.
    if (isMoved && isFull) movedTo = next
    else if (read.length > 0 || isMoved || from.xid === '0') {
      movedTo = undefined
      await setCursor(tx, next)
    }
    return { rows: rows.length, isFull, restarted, signed, hasMoved: isMoved && !isFull }
  }

  const report = (restarted: readonly string[]) => {
    for (const month of restarted) {
      figures = { ...figures, restarted: figures.restarted + 1 }
      log.error(
        { event: 'audit.chain_restarted', month },
        'the signed head of the audit log is missing or was changed: the chain of the month begins anew',
      )
      onRestart(month)
    }
  }

  const logHead = () => {
    const newest = [...seen.keys()].toSorted().at(-1)
    const found = newest === undefined ? undefined : seen.get(newest)
    if (found === undefined || clock.monotonic() - logHeadAtMs < headLogMs) return
    logHeadAtMs = clock.monotonic()
    const { month, sequence } = found.head
    log.info({ event: 'audit.head', month, sequence, head: found.token }, 'the newest signed head of the audit log')
  }

  const warnIfBehind = () => {
    const lagMs = pendingSinceMs === undefined ? 0 : clock.monotonic() - pendingSinceMs
    if (lagMs < behindMs || clock.monotonic() - warnAtMs < behindMs) return
    warnAtMs = clock.monotonic()
    log.warn(
      { event: 'audit.chain_behind', lag_ms: Math.round(lagMs) },
      'audit events are not linked yet, because a transaction of this Postgres server stays open',
    )
  }

  const link = async (): Promise<void> => {
    const { recordings: noted } = recordings
    const nowMs = clock.monotonic()
    if (noted !== lastNoted) [lastNoted, notedAtMs] = [noted, nowMs]
    // An event is noted before its transaction commits.
    const isDue = nowMs - notedAtMs < settleMs || nowMs - lookedAtMs >= lookMs
    if (!isDue && pendingSinceMs === undefined) return
    lookedAtMs = nowMs
    if (!(await store.hasUnlinked())) {
      pendingSinceMs = undefined
      return
    }
    pendingSinceMs ??= clock.monotonic()
    for (;;) {
      const done = await store.exclusively(linkIn)
      if (done === undefined) return
      // Committed: only now the heads are known.
      for (const { token, head } of done.signed) seen.set(head.month, { token, head })
      if (done.rows > 0) {
        knownKeys.add(keys.current().kid)
        figures = { ...figures, linked: figures.linked + done.rows }
        pendingSinceMs = clock.monotonic()
      }
      report(done.restarted)
      if (done.hasMoved) {
        log.warn(
          { event: 'audit.database_moved' },
          'this database was restored from a dump or copied: its audit log goes on from there. Where the original still runs, both send to the same SIEM and webhooks, unless SIEM_URL and the webhooks of the copy are changed',
        )
        onMoved()
      }
      if (!done.isFull) break
    }
    logHead()
    warnIfBehind()
  }

  return {
    /** Links what can be linked. Concurrent calls share one run. */
    poll: (): Promise<void> => {
      running ??= link().finally(() => {
        running = undefined
      })
      return running
    },
    get figures(): ChainFigures {
      return { ...figures, lagMs: pendingSinceMs === undefined ? 0 : clock.monotonic() - pendingSinceMs }
    },
  }
}

export type Chainer = ReturnType<typeof createChainer>
