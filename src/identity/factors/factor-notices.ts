import { timeText } from '../../kit/date-time.ts'
import type { Mail } from '../../mail/service.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import type { DeviceStore, NoticeKind } from '../device-store.ts'

/** What the owner reads of each change. */
const changes = {
  totp_added: 'an authenticator app was set up',
  totp_removed: 'the authenticator app was removed',
  passkey_added: 'a passkey was added',
  passkey_removed: 'a passkey was removed',
  recovery_codes_replaced: 'the recovery codes were replaced',
  recovery_code_used: 'a recovery code was used',
  second_factors_removed: 'an operator removed all second factors',
} as const satisfies Partial<Record<NoticeKind, string>>

export type FactorNoticeKind = keyof typeof changes
export type FactorNotices = {
  add(tx: TransactionSql, notice: { userId: string; kind: FactorNoticeKind; address: string }, at: Date): Promise<void>
}

/** Tells the owner of each change of the factors, by a mail of its own: of two in one day the second may be that of a thief. */
export const createFactorNotices = ({
  store,
  mail,
}: {
  store: Pick<DeviceStore, 'addNotice'>
  mail: Pick<Mail, 'enqueue'>
}): FactorNotices => ({
  add: async (tx, { userId, kind, address }, at) => {
    await store.addNotice(tx, { userId, kind, details: { address } }, at)
    const parameters = { time: timeText(at.getTime()), change: changes[kind] }
    await mail.enqueue(tx, { template: 'factor_changed', parameters, to: { userId } })
  },
})
