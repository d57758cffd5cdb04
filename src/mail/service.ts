import { Fault } from '../fault.ts'
import { decodeBase64url, encodeBase64url } from '../kit/base64url.ts'
import type { Clock } from '../kit/clock.ts'
import { timeText } from '../kit/date-time.ts'
import type { OutboundQueue } from '../outbound/queue.ts'
import { retryFor, type TaskHandler } from '../outbound/runner.ts'
import type { Log } from '../platform/log.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import { SealRefused } from '../platform/secrets.ts'
import { MailRefused, type SendMail } from '../platform/smtp.ts'
import { renderMail } from './render.ts'
import { type LinkFlow, linkOf, type MailSettings } from './settings.ts'
import type { MailStore } from './store.ts'
import type { MailParameters, MailTemplate } from './texts.ts'

export type NewMail<T extends MailTemplate = MailTemplate> = {
  readonly template: T
  readonly parameters: MailParameters<T>
  /** The owner of an account, at its address of this moment; or an address, and whose account it is about if any. */
  readonly to: { readonly userId: string } | { readonly email: string; readonly userId?: string | undefined }
  /** From then on the mail is useless, and is not sent any more. Default: a day after it was enqueued. */
  readonly notAfter?: Date
}

type Sealed = {
  readonly template: MailTemplate
  readonly parameters: Readonly<Record<string, string | number>>
  readonly email: string
  readonly notAfterMs: number
}

const kind = 'mail'
const dayMs = 86_400_000
/** Mails of one template that an address gets in an hour. More are dropped, so that no address is flooded. */
const maxPerHour = 5
/** Notices are about what happened, so more of them are let through. */
const maxNoticesPerHour = 20
const notices: readonly MailTemplate[] = [
  'password_changed',
  'email_changed',
  'email_change_undo',
  'email_restored',
  'new_device',
  'sign_in_failures',
  'factor_changed',
  'former_address_notice',
]
/**
 * What the owner of a former address learns of a change, as long as it can be undone from there: who changed the address of an
 * account that is not theirs goes on to change its password and its factors.
 */
const changeOf: { readonly [T in MailTemplate]?: (parameters: MailParameters<T>) => string } = {
  password_changed: () => 'the password was changed',
  factor_changed: ({ change }) => String(change),
  new_device: () => 'it was used from a new device',
}
const retry = retryFor({ firstMs: 15_000, longestMs: 1_800_000, totalMs: dayMs })

/** Seals the payloads of tasks, which hold addresses, and links that are credentials. */
export type Sealing = {
  seal(text: string): Uint8Array
  /** Throws for a value that was changed or that another secret sealed. */
  open(sealed: Uint8Array): string
}

/** A payload that was changed: no attempt can open it. */
class PayloadUnreadable extends Error {
  override readonly name = 'PayloadUnreadable'
}

/** JSON that only instances with the same secret can read, as the payload of a task. */
export const createPayloads = ({ seal, open }: Sealing) => ({
  seal: (value: unknown): { sealed: string } => ({ sealed: encodeBase64url(seal(JSON.stringify(value))) }),
  open: (payload: unknown): unknown => {
    const { sealed } = (payload ?? {}) as { sealed?: unknown }
    const bytes = typeof sealed === 'string' ? decodeBase64url(sealed) : undefined
    if (bytes === undefined) throw new PayloadUnreadable()
    try {
      return JSON.parse(open(bytes))
    } catch (cause) {
      // An instance that has the other SECRET can open it, or this one after its next start.
      if (cause instanceof SealRefused && cause.reason === 'unknown_secret') throw cause
      throw new PayloadUnreadable('', { cause })
    }
  },
})

export type Payloads = ReturnType<typeof createPayloads>

/** Whether an error of a task would be the same at each attempt. */
export const isHopeless = (error: unknown): boolean =>
  error instanceof PayloadUnreadable || (error instanceof MailRefused && error.isPermanent)

/**
 * Mails to people.
 *
 * Guarantee: a mail is enqueued in the transaction of the change that causes it, and is sent if and only if that is committed: at
 * least once, with the same Message-ID each time, and tried for up to a day. Address and parameters are sealed in the queue, so a
 * copy of the database holds no link. No address gets more than 5 mails of a kind in an hour, or 20 notices. A notice of a
 * change goes to a former address too, while the change of the address can be undone from there.
 *
 * Degrades: where no SMTP_URL is set `require` throws `mail.not_configured`, and `enqueue` does nothing. While the server cannot be
 * reached mails wait, and `isWorking` is false.
 */
export const createMail = ({
  settings,
  send,
  store,
  queue,
  payloads,
  hashOf,
  clock,
  log,
}: {
  settings: MailSettings | undefined
  /** Undefined where `settings` is. */
  send: SendMail | undefined
  store: MailStore
  queue: OutboundQueue
  payloads: Payloads
  /** The same for all spellings of an address. */
  hashOf: (email: string) => Uint8Array
  clock: Clock
  log: Log
}) => {
  let isWorking = true

  const handler: TaskHandler = {
    concurrency: 4,
    timeLimitMs: 60_000,
    run: async (task, signal) => {
      if (settings === undefined || send === undefined) return
      const { template, parameters, email, notAfterMs } = payloads.open(task.payload) as Sealed
      if (notAfterMs <= clock.now()) {
        log.warn({ event: 'mail.too_late', task_id: task.id, template }, 'a mail was not sent in time and is dropped')
        return
      }
      const { from, texts } = settings
      const { subject, text, html } = renderMail(texts, template, parameters as never, from.name || 'Velro')
      try {
        await send({ id: task.id, from, to: email, subject, text, html }, signal)
        isWorking = true
      } catch (error) {
        if (!isHopeless(error)) isWorking = false
        throw error
      }
      log.info({ event: 'mail.sent', task_id: task.id, template }, 'a mail was handed to the mail server')
    },
    retryInMs: (failure) => (isHopeless(failure.error) ? undefined : retry(failure)),
  }
  if (settings !== undefined && send !== undefined) queue.handle(kind, handler)

  const enqueueTo = async (
    tx: TransactionSql,
    email: string,
    userId: string | undefined,
    { template, parameters, notAfter }: Pick<Sealed, 'template' | 'parameters'> & { notAfter?: Date | undefined },
  ): Promise<void> => {
    const nowMs = clock.now()
    const max = notices.includes(template) ? maxNoticesPerHour : maxPerHour
    if ((await store.count(tx, hashOf(email), template, new Date(nowMs))) > max) {
      log.warn(
        { event: 'mail.dropped', template, max },
        'a mail was dropped: its address got the most mails of this kind in an hour',
      )
      return
    }
    const notAfterMs = notAfter?.getTime() ?? nowMs + dayMs
    const sealed: Sealed = { template, parameters, email, notAfterMs }
    await queue.enqueue(tx, { kind, payload: payloads.seal(sealed), userId })
  }

  return {
    isConfigured: settings !== undefined,
    /** False once the mail server could not be reached, until it accepts a mail again. */
    isWorking: (): boolean => isWorking,

    /** Throws `mail.not_configured`. Call it before anything else where a flow needs a mail. */
    require: (): void => {
      if (settings === undefined) throw new Fault('mail.not_configured')
    },

    /** The link of a flow. Call it only where mails are configured. */
    linkOf: (flow: LinkFlow, token: string): string => {
      if (settings === undefined) throw new Fault('mail.not_configured')
      return linkOf(settings, flow, token)
    },

    /** Adds a mail in a transaction. Nothing is added for an account that is not active. */
    enqueue: async <T extends MailTemplate>(
      tx: TransactionSql,
      { template, parameters, to, notAfter }: NewMail<T>,
    ): Promise<void> => {
      if (settings === undefined) return
      const email = 'email' in to ? to.email : await store.findAddress(tx, to.userId)
      if (email === undefined) return
      const { userId } = to
      await enqueueTo(tx, email, userId, { template, parameters, notAfter })
      const change = changeOf[template]?.(parameters)
      if (change === undefined || 'email' in to) return
      const notice = {
        template: 'former_address_notice',
        parameters: { time: timeText(clock.now()), change } satisfies MailParameters<'former_address_notice'>,
      } as const
      for (const former of await store.findFormerAddresses(tx, to.userId, new Date(clock.now())))
        await enqueueTo(tx, former, userId, notice)
    },

    purge: (): Promise<void> => store.purge(new Date(clock.now() - 7_200_000)),
  }
}

export type Mail = ReturnType<typeof createMail>
