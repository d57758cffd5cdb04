import type { Clock } from '../kit/clock.ts'
import { timeText } from '../kit/date-time.ts'
import { quotable } from '../kit/plain-text.ts'
import type { Mail } from '../mail/service.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import type { NoticeStore, UnsentNotice } from './notice-store.ts'

export const noticePollMs = 5_000
/** Older notices, of a time without mail, are no news. */
const maxAgeMs = 86_400_000

const countryNames = new Intl.DisplayNames(['en'], { type: 'region' })

/** An address and the name of its country, for people, who know the country better. */
export const withCountry = (address: string, country: string | null): string =>
  country === null ? address : `${address} (${countryNames.of(country)})`

/**
 * Sends notices as mails to the owners of accounts. Guarantee: each is enqueued once, whichever instance takes it. Without SMTP_URL
 * they stay unsent.
 */
export const createNoticeSender = ({
  store,
  mail,
  clock,
  countryOf,
}: {
  store: NoticeStore
  countryOf: (address: string) => string | null
  mail: Pick<Mail, 'enqueue' | 'isConfigured'>
  clock: Clock
}) => {
  const send = async (tx: TransactionSql, { userId, kind, details, createdAt }: UnsentNotice): Promise<void> => {
    const time = timeText(createdAt.getTime())
    const address = String(details['address'] ?? '') || 'unknown'
    const to = { userId }
    switch (kind) {
      case 'new_device': {
        // The client chose it, so it must not become a link.
        const device = quotable(String(details['user_agent'] ?? ''), 200) ?? 'unknown'
        const place = withCountry(address, countryOf(address))
        await mail.enqueue(tx, { template: kind, parameters: { time, address: place, device }, to })
        return
      }
      case 'sign_in_failures': {
        const failures = Number(details['failures'] ?? 0)
        await mail.enqueue(tx, { template: kind, parameters: { time, address, failures }, to })
      }
    }
  }
  return async (): Promise<void> => {
    if (!mail.isConfigured) return
    const nowMs = clock.now()
    while ((await store.takeUnsent(new Date(nowMs - maxAgeMs), new Date(nowMs), send)) === 100) {}
  }
}
