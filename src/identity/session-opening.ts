import { randomBytes } from 'node:crypto'
import { Fault } from '../fault.ts'
import { allInOrder } from '../kit/async.ts'
import { encodeBase64url } from '../kit/base64url.ts'
import type { Clock } from '../kit/clock.ts'
import { newId } from '../kit/id.ts'
import type { Quotas } from '../limits/quotas.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import { sha256 } from '../platform/secrets.ts'
import type { ClientContexts } from '../security-context/client-contexts.ts'
import type { AccountHash } from './account-hash.ts'
import type { DeviceStore } from './device-store.ts'
import type { DeviceTokens } from './device-tokens.ts'
import type { SignInResponse, TokenResponse } from './model.ts'
import { sessionLife } from './session-rules.ts'
import { refreshTokenLength, type SessionTokens } from './session-tokens.ts'
import type { IdentityStore, UserRow } from './store.ts'

/** The client that opens a session. */
export type Device = { readonly userAgent: string; readonly address: string }

export type OpeningDependencies = {
  store: IdentityStore
  devices: DeviceStore
  deviceTokens: DeviceTokens
  hashOf: AccountHash
  tokens: SessionTokens
  clock: Clock
  maxSessions: Quotas['maxSessions']
  contexts: Pick<ClientContexts, 'openedFrom'>
}

export type Opened = {
  readonly sessionId: string
  /** The session that ended for it. */
  readonly replacedSessionId: string | undefined
  /** Builds the response, after the commit. */
  readonly respond: () => Promise<SignInResponse>
}

export type Reopened = { readonly sessionId: string; readonly respond: () => Promise<TokenResponse> }

/** Opening sessions, in the transaction of a sign-in. All statements of a call are sent before it returns. */
export const createSessionOpening = ({
  store,
  devices,
  deviceTokens,
  hashOf,
  tokens,
  clock,
  maxSessions,
  contexts,
}: OpeningDependencies) => {
  const newSession = (user: UserRow, device: Device) => {
    const nowMs = clock.now()
    const now = new Date(nowMs)
    const id = newId()
    const session = {
      ...contexts.openedFrom(id, device),
      id,
      user_id: user.id,
      user_agent: device.userAgent,
      address: device.address,
      created_at: now,
      last_seen_at: now,
      idle_expires_at: new Date(nowMs + sessionLife.idleMs),
      expires_at: new Date(nowMs + sessionLife.absoluteMs),
    }
    return { nowMs, now, session, refreshToken: randomBytes(refreshTokenLength) }
  }

  /**
   * Opens a session in the transaction, and makes its device known: by `deviceToken`, which must be one of this account, else
   * by a new one.
   */
  const open = async (
    tx: TransactionSql,
    user: UserRow,
    device: Device,
    deviceToken: Uint8Array = deviceTokens.issue(hashOf(user.email ?? '')),
  ): Promise<Opened> => {
    if (user.blocked) throw new Fault('access.blocked')
    const { nowMs, now, session, refreshToken } = newSession(user, device)
    const { id } = session
    await allInOrder([
      () => store.requireSessions(tx, user.role),
      () => store.insertSession(tx, session, sha256(refreshToken)),
      () =>
        devices.rememberDevice(tx, {
          tokenHash: sha256(deviceToken),
          userId: user.id,
          sessionId: id,
          at: now,
          expiresAt: new Date(nowMs + sessionLife.deviceMs),
        }),
    ])
    const respond = async () => ({
      ...(await tokens.issue(user, id, refreshToken, nowMs)),
      device_token: encodeBase64url(deviceToken),
    })
    return { sessionId: id, replacedSessionId: undefined, respond }
  }

  /**
   * As `open`, for a user who may have as many sessions as the plan allows: then the one that was seen least recently ends. A
   * sign-in is never refused for it, because its user may not reach the other devices. The caller has locked the account.
   */
  const openAnother = async (
    tx: TransactionSql,
    user: UserRow,
    device: Device,
    deviceToken: Uint8Array | undefined,
  ): Promise<Opened> => {
    const max = maxSessions(user)
    const [replacedSessionId, opened] = await allInOrder([
      () => (max ? store.endSurplusSession(tx, user.id, new Date(clock.now()), max) : undefined),
      () => open(tx, user, device, deviceToken),
    ])
    return { ...opened, replacedSessionId }
  }

  /**
   * Opens a session in place of the one with the id `fromId`, which the transaction has ended. The device stays known by the
   * token that it has.
   */
  const reopen = async (tx: TransactionSql, user: UserRow, device: Device, fromId: string): Promise<Reopened> => {
    const { nowMs, session, refreshToken } = newSession(user, device)
    await allInOrder([
      () => store.insertSession(tx, session, sha256(refreshToken), fromId),
      () => devices.moveDevice(tx, user.id, fromId, session.id),
    ])
    return { sessionId: session.id, respond: () => tokens.issue(user, session.id, refreshToken, nowMs) }
  }

  return { open, openAnother, reopen }
}
