import { Buffer } from 'node:buffer'
import { Fault, invalidInput } from '../fault.ts'
import type { AuditSource, RequestContext } from '../http/request-context.ts'
import { decodeBase64url, encodeBase64url } from '../kit/base64url.ts'
import { toPage } from '../kit/cursor.ts'
import type { Deadline, StartDeadline } from '../kit/deadline.ts'
import type { Sql } from '../platform/postgres.ts'
import { isAuditAction, textOfAction } from './catalogue.ts'
import type { AuditKeys } from './keys.ts'
import type { ExportedEvent, ListedEvent, ListStore, Place } from './list-store.ts'
import type { AuditEvent, AuditQuery, ExportRange } from './model.ts'
import type { AuditSink } from './sink.ts'
import { type AuditProblem, ForeignHead, problemKinds, type VerifyPlace, verifyAudit } from './verify.ts'
import { withSnapshot } from './verify-store.ts'

type Reader = { readonly userId: string; readonly sessionId: string }

/** What one call verifies: about a second of work. */
const maxVerified = 50_000
const exportPage = 1_000
const exportStepMs = 30_000

/** How much of the actor a reader may see. `own`: only where the reader is the actor. */
type Sight = 'all' | 'own' | 'ids'

const toEvent = (row: ListedEvent, sight: Sight, readerId: string): AuditEvent => {
  const isOwn = row.actor_id === readerId
  const seesIds = sight !== 'own' || isOwn
  const seesDetails = sight === 'all' || (sight === 'own' && isOwn)
  const details = seesDetails ? row.details : null
  return {
    id: row.id,
    at: row.at.toISOString(),
    action: row.action,
    description: isAuditAction(row.action) ? textOfAction(row.action) : row.action,
    actor: {
      kind: row.actor_kind as AuditEvent['actor']['kind'],
      id: seesIds ? row.actor_id : null,
      service_key_id: seesIds ? row.service_key_id : null,
      session_id: seesDetails ? row.session_id : null,
      address: details?.address ?? null,
      user_agent: details?.user_agent ?? null,
      names: details?.names ?? null,
    },
    target: { type: row.target_type, id: row.target_id },
    user_id: row.user_id,
    team_id: row.team_id,
    request_id: row.request_id,
    before: row.before,
    after: row.after,
    count: row.count,
  }
}

const toTime = (text: string | undefined): Date | undefined => (text === undefined ? undefined : new Date(text))

const encodePlace = ({ month, after }: VerifyPlace): string => encodeBase64url(Buffer.from(`${month} ${after}`))
const decodePlace = (cursor: string): VerifyPlace => {
  const bytes = decodeBase64url(cursor)
  const found = bytes && /^(\d{4}-\d{2}-01T00:00:00\.000Z) (\d{1,15})$/.exec(Buffer.from(bytes).toString())
  if (!found) throw invalidInput('query', '/cursor', 'must be the `next_cursor` of the part before')
  return { month: found[1] ?? '', after: Number(found[2]) }
}

/**
 * The audit log as it is read: by operators whole, by a person its own events, by the owner of a team those of the team.
 *
 * Guarantee: addresses and names are shown to operators, and to the person whose they are. A person sees that somebody acted on its
 * account, not who.
 */
export const createAuditService = ({
  store,
  sql,
  keys,
  source,
  sink,
  startDeadline,
  requireTeamOwner,
  onProblems = () => {},
}: {
  store: ListStore
  /** For the verification, whose reads see one moment. */
  sql: Sql
  keys: AuditKeys
  source: AuditSource
  sink: Pick<AuditSink, 'event'>
  startDeadline: StartDeadline
  /** Throws where the user does not own the team. */
  requireTeamOwner: (deadline: Deadline, teamId: string, userId: string) => Promise<void>
  /** A verification has found these, at least one. */
  onProblems?: (problems: readonly AuditProblem[]) => void
}) => {
  const toList = (rows: readonly ListedEvent[], limit: number, sight: Sight, readerId: string) => {
    const { items, next_cursor } = toPage(rows, limit)
    return { items: items.map((row) => toEvent(row, sight, readerId)), next_cursor }
  }

  return {
    list: async ({ deadline }: RequestContext, { userId }: Reader, query: AuditQuery, place: Place) => {
      const filter = {
        action: query.action,
        actorId: query.actor_id,
        targetId: query.target_id,
        userId: query.user_id,
        teamId: query.team_id,
        from: toTime(query.from),
        to: toTime(query.to),
      }
      return toList(await store.list(deadline, filter, place), place.limit, 'all', userId)
    },

    listOwn: async ({ deadline }: RequestContext, { userId }: Reader, place: Place) =>
      toList(await store.listOfUser(deadline, userId, place), place.limit, 'own', userId),

    listOfTeam: async ({ deadline }: RequestContext, { userId }: Reader, teamId: string, place: Place) => {
      await requireTeamOwner(deadline, teamId, userId)
      return toList(await store.listOfTeam(deadline, teamId, place), place.limit, 'ids', userId)
    },

    /** Verifies a part of the log, from a cursor on. Throws `audit.head_foreign`. */
    verify: async ({ deadline }: RequestContext, { cursor, head }: { cursor?: string; head?: string }) => {
      const from = cursor === undefined ? undefined : decodePlace(cursor)
      const verifying = withSnapshot(sql, (reads) =>
        verifyAudit(
          { store: reads, keys, macOf: source.macOf },
          { heads: head === undefined ? [] : [head], from, limit: maxVerified },
        ),
      )
      const report = await deadline.run(verifying).catch((error) => {
        throw error instanceof ForeignHead ? new Fault('audit.head_foreign') : error
      })
      const { problems, verified, pending, erased, next } = report
      if (problems.length > 0) onProblems(problems)
      return {
        intact: problems.length === 0,
        problems: problems.map((each) => ({ ...each, description: problemKinds[each.problem] })),
        verified,
        pending,
        erased,
        head: report.head,
        next_cursor: next === undefined ? null : encodePlace(next),
      }
    },

    /**
     * Linked events of a time as NDJSON, in the order of their links, each with what is needed to verify it. The export itself is
     * an event. A stream that fails ends early, without its last line, which has the number of events.
     */
    export: (context: RequestContext, caller: Reader, { from, to }: ExportRange): ReadableStream<Uint8Array> => {
      const range = { from: toTime(from) ?? new Date(0), to: toTime(to) ?? new Date('9999-01-01') }
      sink.event({
        action: 'audit.exported',
        actor: caller,
        target: { type: 'audit', id: null },
        after: { from: from ?? null, to: to ?? null },
        context,
      })
      const lines = async function* () {
        let after = ''
        let events = 0
        for (;;) {
          const rows: ExportedEvent[] = await store.export(startDeadline(exportStepMs), {
            ...range,
            after,
            limit: exportPage,
          })
          const text = rows.map((event) => `${JSON.stringify(event)}\n`).join('')
          events += rows.length
          if (rows.length > 0) yield Buffer.from(text)
          const last = rows.at(-1)
          if (last === undefined || rows.length < exportPage) break
          after = `${last.month} ${last.sequence}`
        }
        yield Buffer.from(`${JSON.stringify({ end: true, events })}\n`)
      }
      const iterator = lines()
      return new ReadableStream<Uint8Array>({
        pull: async (controller) => {
          const { done, value } = await iterator.next()
          if (done) controller.close()
          else controller.enqueue(value)
        },
        cancel: async () => void (await iterator.return()),
      })
    },
  }
}

export type AuditService = ReturnType<typeof createAuditService>
