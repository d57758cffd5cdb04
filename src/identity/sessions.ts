import type { Changes } from '../access/invalidation/committed-change.ts'
import { toSessionOrigin } from '../access/policy/facts/session.ts'
import type { Caller } from '../access/principal.ts'
import { recorderOf } from '../audit/audit.ts'
import { Fault } from '../fault.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { RecordSecurityEvent } from '../http/security-events.ts'
import { toPage } from '../kit/cursor.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import { sha256 } from '../platform/secrets.ts'
import { namesOfUserAgent } from '../platform/user-agent.ts'
import type { ClientContexts } from '../security-context/client-contexts.ts'
import type { Screening } from '../security-context/screening.ts'
import type { Session, TokenResponse } from './model.ts'
import type { SessionRow } from './refresh-token-store.ts'
import { createSessionOpening, type Device, type OpeningDependencies } from './session-opening.ts'
import { decideRefresh, isLateRetry, sessionLife } from './session-rules.ts'
import type { Successor, Successors } from './session-tokens.ts'
import type { EndReason, IdentityStore } from './store.ts'
import { settledMs, type TokenUses } from './token-uses.ts'

const recordSession = recorderOf('session')
const recordUser = recorderOf('user')

export type SessionDependencies = OpeningDependencies & {
  changes: Changes
  contexts: ClientContexts
  screening: Pick<Screening, 'require'>
  uses: Pick<TokenUses, 'flush'>
  record: RecordSecurityEvent
  pause?: (ms: number) => Promise<void>
}

const wait = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

const toSession = (row: SessionRow, currentId: string): Session => ({
  id: row.id,
  current: row.id === currentId,
  device: namesOfUserAgent(row.user_agent),
  user_agent: row.user_agent,
  address: row.address,
  country: row.country,
  created_at: row.created_at.toISOString(),
  last_seen_at: row.last_seen_at.toISOString(),
  expires_at: new Date(Math.min(row.idle_expires_at.getTime(), row.expires_at.getTime())).toISOString(),
})

/** The successor that a rotated token was replaced by. Sends a statement only where SECRET_PREVIOUS is set. */
const findIssued = async (
  store: IdentityStore,
  tx: TransactionSql,
  [first, ...older]: Successors,
): Promise<Successor> => {
  for (const each of older) if (await store.isIssued(tx, sha256(each.token))) return each
  return first
}

/**
 * Sessions and their refresh tokens.
 *
 * Guarantee: a session that was ended is refused from the next request on; the database holds hashes of refresh tokens,
 * so a stolen copy of it cannot be used to sign in.
 */
export const createSessions = (dependencies: SessionDependencies) => {
  const { store, devices, changes, tokens, uses, clock, record, contexts, screening, pause = wait } = dependencies
  const { open, openAnother, reopen } = createSessionOpening(dependencies)

  /** Ends all sessions but `exceptId`, and forgets all devices but the one of `deviceOf`. */
  const endAll = async (
    tx: TransactionSql,
    userId: string,
    reason: EndReason,
    { exceptId, deviceOf = exceptId }: { exceptId?: string; deviceOf?: string } = {},
  ): Promise<void> => {
    await store.endSessions(tx, userId, reason, new Date(clock.now()), exceptId)
    await devices.forgetDevices(tx, userId, deviceOf ?? null)
  }

  /** Locks the token and its session, decides, and rotates the token or ends the session in the same transaction. */
  const refreshIn = async (
    tx: TransactionSql,
    context: RequestContext,
    { token, successors, device }: { token: Uint8Array; successors: Successors; device: Device },
  ) => {
    const nowMs = clock.now()
    const session = await store.lockRefreshToken(tx, sha256(token))
    if (session === undefined) return { decision: 'ended' } as const
    const rotatedAtMs = session.rotated_at?.getTime() ?? null
    const late = isLateRetry(rotatedAtMs, nowMs)
    const successor = rotatedAtMs === null ? successors[0] : await findIssued(store, tx, successors)
    const decision = decideRefresh(
      {
        rotatedAtMs,
        endedAtMs: session.ended_at?.getTime() ?? null,
        idleExpiresAtMs: session.idle_expires_at.getTime(),
        expiresAtMs: session.expires_at.getTime(),
        successorUnused: late && (await store.isUnused(tx, sha256(successor.token))),
      },
      nowMs,
    )
    if (decision === 'ended') return { decision }
    if (decision === 'reused') {
      recordSession(tx, context, 'anonymous', session.id, 'session.refresh_reused', { userId: session.user_id })
      await store.endSession(tx, session.user_id, session.id, 'refresh_reused', new Date(nowMs))
      await store.endAddressChanges(tx, session.user_id, new Date(nowMs))
      return { decision, session }
    }
    const user = await store.findUser(context.deadline, session.user_id, tx)
    if (user?.status !== 'active') return { decision: 'ended' } as const
    // Rolled back: the same token refreshes the session once the block or the lockdown has ended.
    if (user.blocked) throw new Fault('access.blocked')
    await store.requireSessions(tx, user.role)
    // Refused before anything changes: the token stays good where the session is at home.
    const { user_id: userId, id: sessionId } = session
    screening.require({ userId, sessionId, origin: toSessionOrigin(session) }, device, context)
    if (decision === 'rotate') {
      const idleExpiresAt = new Date(Math.min(nowMs + sessionLife.idleMs, session.expires_at.getTime()))
      const seenCountry = contexts.countryOf(device.address)
      const seen = { id: sessionId, seenAt: new Date(nowMs), seenCountry, idleExpiresAt }
      const issued = {
        tokenHash: sha256(successor.token),
        accessTokenId: tokens.accessTokenIdOf(successor.token, successor.by),
      }
      recordSession(tx, context, { userId: user.id, sessionId: session.id }, session.id, 'session.refreshed')
      await store.rotateRefreshToken(tx, sha256(token), issued, seen)
    }
    return { decision, user, session, successor, issuedAtMs: rotatedAtMs ?? nowMs, late }
  }

  return {
    open,
    openAnother,
    reopen,
    endAll,

    /**
     * Exchanges a refresh token for its successor. Idempotent for 10 s after the rotation: a retry gets the same response.
     * So does a retry within 5 minutes while the tokens of that response were presented to no instance; it is decided a
     * second time after `settledMs`, when every use before it has been recorded. Any other reuse ends the session. Throws
     * `identity.refresh_token_invalid`, and `session.reauthentication_required` from elsewhere: see `createScreening`.
     */
    refresh: async (context: RequestContext, refreshToken: string, device: Device): Promise<TokenResponse> => {
      const token = tokens.decodeRefreshToken(refreshToken)
      const successors = tokens.successorsOf(token)
      // Throwing inside the transaction would roll back the end of a reused session, so the fault is thrown after it.
      const decideAndCommit = () =>
        changes.commitAndInvalidate(context.deadline, (tx) => refreshIn(tx, context, { token, successors, device }), {
          grantsOnly: true,
        })
      let outcome = await decideAndCommit()
      if (outcome.decision === 'retry' && outcome.late) {
        await uses.flush()
        await context.deadline.run(pause(settledMs))
        outcome = await decideAndCommit()
      }
      if (outcome.decision === 'reused') {
        const { id: session_id, user_id } = outcome.session
        record(context, 'session.refresh_reused', { address: device.address, user_id, session_id })
      }
      if (outcome.decision === 'reused' || outcome.decision === 'ended')
        throw new Fault('identity.refresh_token_invalid')
      const { user, session, successor, issuedAtMs } = outcome
      return tokens.issue(user, session.id, successor.token, issuedAtMs, successor.by)
    },

    logout: async (context: RequestContext, caller: Caller, address: string): Promise<void> => {
      const { userId: user_id, sessionId: session_id } = caller
      await changes.commitAndInvalidate(context.deadline, async (tx) => {
        recordSession(tx, context, caller, session_id, 'session.ended', { after: { reason: 'logout' } })
        await store.endSession(tx, user_id, session_id, 'logout', new Date(clock.now()))
      })
      record(context, 'session.ended', { address, user_id, session_id, reason: 'logout' })
    },

    logoutAll: async (context: RequestContext, caller: Caller, address: string): Promise<void> => {
      const { userId, sessionId } = caller
      await changes.commitAndInvalidate(context.deadline, (tx) => {
        recordUser(tx, context, caller, userId, 'session.all_ended')
        return endAll(tx, userId, 'logout_all', { deviceOf: sessionId })
      })
      record(context, 'session.all_ended', { address, user_id: userId, session_id: sessionId })
    },

    list: async (context: RequestContext, caller: Caller, page: { after: string | null; limit: number }) => {
      const now = new Date(clock.now())
      const rows = await store.listSessions(context.deadline, caller.userId, now, page.after, page.limit)
      const { items, next_cursor } = toPage(rows, page.limit)
      return { items: items.map((row) => toSession(row, caller.sessionId)), next_cursor }
    },

    end: async (context: RequestContext, caller: Caller, id: string, address: string): Promise<void> => {
      await changes.commitAndInvalidate(context.deadline, async (tx) => {
        const at = new Date(clock.now())
        // A session that its owner does not know may have asked for one.
        await store.endAddressChanges(tx, caller.userId, at)
        const ended = await store.endSession(tx, caller.userId, id, 'ended_by_user', at)
        if (!ended) throw new Fault('session.not_found')
        recordSession(tx, context, caller, id, 'session.ended', { after: { reason: 'ended_by_user' } })
        await devices.forgetDeviceOf(tx, caller.userId, id)
      })
      record(context, 'session.ended', { address, user_id: caller.userId, session_id: id, reason: 'ended_by_user' })
    },

    /** Deletes up to 5,000 sessions that ended or expired more than 7 days ago. Returns how many. */
    purge: (): Promise<number> => store.purgeSessions(new Date(clock.now() - sessionLife.idleMs)),
  }
}

export type Sessions = ReturnType<typeof createSessions>
