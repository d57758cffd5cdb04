import { randomBytes } from 'node:crypto'
import type { Changes } from '../access/invalidation/committed-change.ts'
import type { Caller, Claims, TokenClaims } from '../access/principal.ts'
import { Fault, invalidInput } from '../fault.ts'
import type { RequestContext } from '../http/request-context.ts'
import { decodeBase64url, encodeBase64url } from '../kit/base64url.ts'
import type { Clock } from '../kit/clock.ts'
import { toPage } from '../kit/cursor.ts'
import { canonicalEmail } from '../kit/email.ts'
import { newId } from '../kit/id.ts'
import type { MaybePromise } from '../kit/maybe-promise.ts'
import { createTtlMap } from '../kit/ttl-map.ts'
import type { Log } from '../platform/log.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import { type Secrets, sha256 } from '../platform/secrets.ts'
import { signAccessToken, type TokenPolicy, verifyAccessToken } from '../platform/tokens.ts'
import type { Session, TokenResponse, User } from './model.ts'
import { isOutdated, type Passwords } from './passwords.ts'
import { judgeRefresh, sessionLife } from './session-rules.ts'
import type { SigningKeys } from './signing-keys.ts'
import type { EndReason, IdentityStore, SessionRow, UserRow } from './store.ts'

/** Where a session is opened from. */
export type Device = { readonly userAgent: string; readonly address: string }

type Dependencies = {
  store: IdentityStore
  changes: Changes
  passwords: Passwords
  keys: SigningKeys
  secrets: Secrets
  policy: TokenPolicy
  clock: Clock
  log: Log
  maxCachedTokens: number
  /** Locks the account, takes the person out of the teams it does not own, and forgets where it was invited. */
  leaveTeams: (tx: TransactionSql, userId: string) => Promise<void>
  /** Told of every sign-in and refresh that is about to be answered; must not throw. */
  onSignedIn?: (claims: Claims) => void
  /** Calls off some of what a person has under way: whether there may be more. */
  cancelGenerations: (tx: TransactionSql, userId: string) => Promise<boolean>
  /** Gives somebody new what everybody starts with. */
  welcome: (tx: TransactionSql, userId: string) => Promise<void>
}

const refreshTokenLength = 32
const maxDefaultNameLength = 100

const minPasswordCharacters = 8

/** The schema counts UTF-16 units, of which some characters have two. */
const requireLength = (password: string, pointer: string): void => {
  if ([...password.normalize('NFC')].length >= minPasswordCharacters) return
  throw invalidInput('body', pointer, `Expected ${minPasswordCharacters} characters or more`)
}

const toUser = (row: UserRow): User => ({
  id: row.id,
  email: row.email ?? '',
  display_name: row.display_name,
  role: row.role,
  plan: row.plan,
  status: row.status,
  created_at: row.created_at.toISOString(),
  updated_at: row.updated_at.toISOString(),
})

const toSession = (row: SessionRow, currentId: string): Session => ({
  id: row.id,
  current: row.id === currentId,
  user_agent: row.user_agent,
  address: row.address,
  created_at: row.created_at.toISOString(),
  last_seen_at: row.last_seen_at.toISOString(),
  expires_at: new Date(Math.min(row.idle_expires_at.getTime(), row.expires_at.getTime())).toISOString(),
})

/**
 * Who people are, and their sessions.
 *
 * Promise: what a sign-up or a sign-in acknowledged is committed; an ended session, a closed account and a changed
 * password are felt by the next request; nothing that is stored signs anybody in.
 */
export const createIdentity = (dependencies: Dependencies) => {
  const {
    store,
    changes,
    passwords,
    keys,
    secrets,
    policy,
    clock,
    log,
    maxCachedTokens,
    leaveTeams,
    cancelGenerations,
    welcome,
  } = dependencies
  const { onSignedIn = () => {} } = dependencies
  const verified = createTtlMap<TokenClaims>({
    clock,
    maxEntries: maxCachedTokens,
    ttlMs: policy.ttlMs,
    jitter: 0,
  })

  /** The answer to a sign-in. With the same arguments it is the same answer, which is what a retried refresh gets. */
  const issue = async (
    user: UserRow,
    sessionId: string,
    refreshToken: Uint8Array,
    atMs: number,
  ): Promise<TokenResponse> => {
    onSignedIn({ userId: user.id, sessionId })
    return {
      access_token: await signAccessToken(keys.signer(atMs), policy, {
        userId: user.id,
        sessionId,
        tokenId: encodeBase64url(secrets.derive('token-id', refreshToken)).slice(0, 22),
        issuedAtS: Math.floor(atMs / 1_000),
      }),
      refresh_token: encodeBase64url(refreshToken),
      token_type: 'Bearer',
      expires_in: policy.ttlMs / 1_000,
      user: toUser(user),
    }
  }

  const inForce = (claims: TokenClaims): TokenClaims => {
    if (claims.expiresAtMs <= clock.now()) throw new Fault('identity.not_signed_in')
    return claims
  }

  const verifyAndRemember = async (token: string): Promise<TokenClaims> => {
    const found = await verifyAccessToken(token, policy, clock, keys.find)
    if (found === undefined) throw new Fault('identity.not_signed_in')
    const claims = { userId: found.userId, sessionId: found.sessionId, expiresAtMs: found.expiresAtS * 1_000 }
    verified.set(token, claims)
    return inForce(claims)
  }

  const openSession = async (tx: TransactionSql, user: UserRow, device: Device) => {
    const nowMs = clock.now()
    const id = newId()
    const refreshToken = randomBytes(refreshTokenLength)
    const now = new Date(nowMs)
    const session = {
      id,
      user_id: user.id,
      user_agent: device.userAgent,
      address: device.address,
      created_at: now,
      last_seen_at: now,
      idle_expires_at: new Date(nowMs + sessionLife.idleMs),
      expires_at: new Date(nowMs + sessionLife.absoluteMs),
    }
    await store.insertSession(tx, session, sha256(refreshToken))
    return () => issue(user, id, refreshToken, nowMs)
  }

  const endAll = (tx: TransactionSql, userId: string, reason: EndReason, except?: string) =>
    store.endSessions(tx, userId, reason, new Date(clock.now()), except)

  const requireUser = async (context: RequestContext, userId: string): Promise<UserRow> => {
    const user = await store.findUser(context.deadline, userId)
    if (user === undefined || user.status !== 'active') throw new Fault('identity.not_signed_in')
    return user
  }

  return {
    /** What a bearer token claims, its signature checked; throws `identity.not_signed_in`. Checked tokens are remembered. */
    claimsOf: (token: string): MaybePromise<TokenClaims> => {
      const known = verified.get(token)
      return known.kind === 'hit' ? inForce(known.value) : verifyAndRemember(token)
    },

    register: async (
      context: RequestContext,
      input: { email: string; password: string; display_name?: string },
      device: Device,
    ): Promise<TokenResponse> => {
      const email = canonicalEmail(input.email)
      if (email === undefined) throw invalidInput('body', '/email', 'Too long')
      requireLength(input.password, '/password')
      const passwordHash = await passwords.hash(input.password, context.deadline)
      const answer = await changes.commitAndInvalidate(
        context.deadline,
        async (tx) => {
          const displayName = input.display_name ?? email.slice(0, Math.min(email.indexOf('@'), maxDefaultNameLength))
          const user = await store.insertUser(tx, { id: newId(), email, displayName, passwordHash })
          await welcome(tx, user.id)
          return openSession(tx, user, device)
        },
        { grantsOnly: true },
      )
      return answer()
    },

    /** An unknown address costs what a wrong password costs, and is answered with the same bytes. */
    login: async (
      context: RequestContext,
      input: { email: string; password: string },
      device: Device,
    ): Promise<TokenResponse> => {
      const email = canonicalEmail(input.email) ?? ''
      // Twice, because a sign-in that overlaps may have renewed the hash between our look at it and our use of it.
      for (let attempt = 1; attempt <= 2; attempt += 1) {
        const user = await store.findUserByEmail(context.deadline, email)
        const hash = user?.password_hash ?? undefined
        const matches = await passwords.verify(input.password, hash, context.deadline)
        if (!matches || user === undefined || hash === undefined) break
        if (user.status !== 'active') throw new Fault('identity.account_suspended')
        const renewed = isOutdated(hash) ? await passwords.rehash(input.password, context.deadline) : undefined
        const answer = await changes.commitAndInvalidate(
          context.deadline,
          async (tx) => {
            const held =
              renewed === undefined
                ? await store.holdAccount(tx, user.id, hash)
                : await store.replacePasswordHash(tx, user.id, hash, renewed)
            return held ? openSession(tx, user, device) : undefined
          },
          { grantsOnly: true },
        )
        if (answer !== undefined) return answer()
      }
      throw new Fault('identity.credentials_wrong')
    },

    /**
     * Rotates a refresh token. The successor is derived from the presented token and a server key, so a retry within the
     * grace gets the same answer while nothing usable is stored.
     */
    refresh: async (context: RequestContext, presented: string): Promise<TokenResponse> => {
      const token = decodeBase64url(presented)
      if (token?.length !== refreshTokenLength) throw new Fault('identity.refresh_token_invalid')
      const successor = secrets.derive('refresh-successor', token)
      // A throw in here would undo the end of a reused family, so the verdict comes out and is acted on outside.
      const outcome = await changes.commitAndInvalidate(
        context.deadline,
        async (tx) => {
          const nowMs = clock.now()
          const found = await store.lockRefreshToken(tx, sha256(token))
          if (found === undefined) return { verdict: 'over' } as const
          const verdict = judgeRefresh(
            {
              rotatedAtMs: found.rotated_at?.getTime() ?? null,
              endedAtMs: found.ended_at?.getTime() ?? null,
              idleExpiresAtMs: found.idle_expires_at.getTime(),
              expiresAtMs: found.expires_at.getTime(),
            },
            nowMs,
          )
          if (verdict === 'over') return { verdict }
          if (verdict === 'reused') {
            await store.endSession(tx, found.user_id, found.id, 'refresh_reused', new Date(nowMs))
            return { verdict, session: found }
          }
          const user = await store.findUser(context.deadline, found.user_id, tx)
          if (user?.status !== 'active') return { verdict: 'over' } as const
          if (verdict === 'rotate') {
            const idleExpiresAt = new Date(Math.min(nowMs + sessionLife.idleMs, found.expires_at.getTime()))
            const seen = { id: found.id, seenAt: new Date(nowMs), idleExpiresAt }
            await store.rotateRefreshToken(tx, sha256(token), sha256(successor), seen)
          }
          return { verdict, user, session: found, atMs: found.rotated_at?.getTime() ?? nowMs }
        },
        { grantsOnly: true },
      )
      if (outcome.verdict === 'reused') {
        const { id: session_id, user_id } = outcome.session
        log.warn(
          { event: 'session.refresh_reused', session_id, user_id, request_id: context.requestId },
          'family ended',
        )
      }
      if (outcome.verdict === 'reused' || outcome.verdict === 'over') throw new Fault('identity.refresh_token_invalid')
      return issue(outcome.user, outcome.session.id, successor, outcome.atMs)
    },

    logout: (context: RequestContext, caller: Caller): Promise<void> =>
      changes.commitAndInvalidate(context.deadline, async (tx) => {
        await store.endSession(tx, caller.userId, caller.sessionId, 'logout', new Date(clock.now()))
      }),

    logoutAll: (context: RequestContext, caller: Caller): Promise<void> =>
      changes.commitAndInvalidate(context.deadline, (tx) => endAll(tx, caller.userId, 'logout_all')),

    getMe: async (context: RequestContext, caller: Caller): Promise<User> =>
      toUser(await requireUser(context, caller.userId)),

    updateMe: (context: RequestContext, caller: Caller, input: { display_name: string }): Promise<User> =>
      changes.commitAndInvalidate(
        context.deadline,
        async (tx) => {
          const user = await store.updateDisplayName(tx, caller.userId, input.display_name)
          if (user === undefined) throw new Fault('identity.not_signed_in')
          return toUser(user)
        },
        { grantsOnly: true },
      ),

    closeMe: async (context: RequestContext, caller: Caller): Promise<void> => {
      const cancelSome = (tx: TransactionSql) => cancelGenerations(tx, caller.userId)
      // However many there are: what was called off is, and whoever asks again goes on from there.
      while (await changes.commitAndInvalidate(context.deadline, cancelSome)) {}
      await changes.commitAndInvalidate(context.deadline, async (tx) => {
        // While the address is still known; from here on nothing more is accepted.
        await leaveTeams(tx, caller.userId)
        while (await cancelSome(tx)) {}
        await store.closeAccount(tx, caller.userId)
        await endAll(tx, caller.userId, 'account_closed')
      })
    },

    /** Ends every other session; this one goes on. Of two changes at once one wins, the other is told its password is wrong. */
    changePassword: async (
      context: RequestContext,
      caller: Caller,
      input: { current_password: string; new_password: string },
    ): Promise<void> => {
      requireLength(input.new_password, '/new_password')
      const user = await requireUser(context, caller.userId)
      const from = user.password_hash ?? undefined
      const matches = await passwords.verify(input.current_password, from, context.deadline)
      if (!matches || from === undefined) throw new Fault('identity.password_wrong')
      const to = await passwords.hash(input.new_password, context.deadline)
      await changes.commitAndInvalidate(context.deadline, async (tx) => {
        if (!(await store.replacePasswordHash(tx, user.id, from, to))) throw new Fault('identity.password_wrong')
        await endAll(tx, user.id, 'password_changed', caller.sessionId)
      })
    },

    listSessions: async (context: RequestContext, caller: Caller, page: { after: string | null; limit: number }) => {
      const now = new Date(clock.now())
      const rows = await store.listSessions(context.deadline, caller.userId, now, page.after, page.limit)
      const { items, next_cursor } = toPage(rows, page.limit)
      return { items: items.map((row) => toSession(row, caller.sessionId)), next_cursor }
    },

    endSession: (context: RequestContext, caller: Caller, id: string): Promise<void> =>
      changes.commitAndInvalidate(context.deadline, async (tx) => {
        const ended = await store.endSession(tx, caller.userId, id, 'ended_by_user', new Date(clock.now()))
        if (!ended) throw new Fault('session.not_found')
      }),

    /** Forgets sessions that have been over for a week. */
    purge: () => store.purgeSessions(new Date(clock.now() - sessionLife.idleMs)),
  }
}

export type Identity = ReturnType<typeof createIdentity>
