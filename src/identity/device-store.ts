import { newId } from '../kit/id.ts'
import type { TransactionSql } from '../platform/postgres.ts'

export type NoticeKind =
  | 'sign_in_failures'
  | 'new_device'
  | 'identity_linked'
  | 'identity_unlinked'
  | 'totp_added'
  | 'totp_removed'
  | 'passkey_added'
  | 'passkey_removed'
  | 'recovery_codes_replaced'
  | 'recovery_code_used'
  | 'second_factors_removed'
/** For the owner of an account. `details` holds no secret. */
export type Notice = {
  readonly userId: string
  readonly kind: NoticeKind
  readonly details: Readonly<Record<string, string | number>>
}

/** Devices that an account has at most. The one that was used longest ago is forgotten first. */
const maxDevices = 50

/** Known devices and notices, in the transaction that changes them. */
export const deviceStore = {
  /** Makes a device known, or known for longer. Call it after the session was inserted. */
  rememberDevice: async (
    tx: TransactionSql,
    device: { tokenHash: Uint8Array; userId: string; sessionId: string; at: Date; expiresAt: Date },
  ): Promise<void> => {
    await tx`
      with forgotten as (
        delete from known_devices where token_hash in (
          select token_hash from known_devices
           where user_id = ${device.userId} and token_hash <> ${device.tokenHash}
           order by last_used_at desc offset ${maxDevices - 1})
      )
      insert into known_devices as d (token_hash, user_id, session_id, created_at, last_used_at, expires_at)
      values (${device.tokenHash}, ${device.userId}, ${device.sessionId}, ${device.at}, ${device.at}, ${device.expiresAt})
      on conflict (token_hash) do update
         set session_id = excluded.session_id, last_used_at = excluded.last_used_at, expires_at = excluded.expires_at
       where d.user_id = excluded.user_id`
  },

  /** Forgets the devices of a user, except the one of the session `exceptSessionId`. */
  forgetDevices: async (tx: TransactionSql, userId: string, exceptSessionId: string | null): Promise<void> => {
    await tx`
      delete from known_devices
       where user_id = ${userId} and session_id is distinct from ${exceptSessionId}::uuid`
  },

  /** A device of one session is from now on that of another one. */
  moveDevice: async (tx: TransactionSql, userId: string, fromSessionId: string, toSessionId: string): Promise<void> => {
    await tx`
      update known_devices set session_id = ${toSessionId} where user_id = ${userId} and session_id = ${fromSessionId}`
  },

  forgetDeviceOf: async (tx: TransactionSql, userId: string, sessionId: string): Promise<void> => {
    await tx`delete from known_devices where user_id = ${userId} and session_id = ${sessionId}`
  },

  addNotice: async (tx: TransactionSql, { userId, kind, details }: Notice, at: Date): Promise<void> => {
    await tx`
      insert into notices (id, user_id, kind, day, created_at, details)
      values (${newId()}, ${userId}, ${kind}, (${at}::timestamptz at time zone 'UTC')::date, ${at}, ${tx.json(details)})
      on conflict on constraint notices__once_a_day do nothing`
  },

  deleteNotices: async (tx: TransactionSql, userId: string): Promise<void> => {
    await tx`delete from notices where user_id = ${userId}`
  },
}

export type DeviceStore = typeof deviceStore
