import { rejectOnAbort } from '../kit/async.ts'
import type { MailAddress, SmtpServer } from '../mail/settings.ts'

export type MailMessage = {
  /** Without angle brackets; the same at each attempt, so that a recipient can recognize a repetition. */
  readonly id: string
  readonly from: MailAddress
  readonly to: string
  readonly subject: string
  readonly text: string
  readonly html: string
}

/** A mail was not accepted. Holds the codes alone: what a server answers may name the recipient. */
export class MailRefused extends Error {
  override readonly name = 'MailRefused'
  readonly code: string
  /** Of the server. Undefined: it gave none. */
  readonly status: number | undefined
  /** Another attempt would be refused too. */
  readonly isPermanent: boolean
  constructor(code: string, status: number | undefined, isPermanent: boolean) {
    super(`the mail was not sent: ${code}${status === undefined ? '' : `, status ${status}`}`)
    this.code = code
    this.status = status
    this.isPermanent = isPermanent
  }
}

export type SendMail = (message: MailMessage, signal: AbortSignal) => Promise<void>

const connectMs = 10_000
const silentMs = 30_000

type SmtpError = { code?: unknown; responseCode?: unknown }

/**
 * Whether a refusal is about this mail or its recipient. Otherwise the connection, TLS or the sign-in failed, which an operator can
 * mend: STARTTLS that is not offered is a 500, too, and 530 and 535 ask for another sign-in.
 */
const isAboutMail = (name: string, status: number): boolean =>
  (name === 'EENVELOPE' || name === 'EMESSAGE') && status !== 530 && status !== 535

const toRefusal = (error: unknown): MailRefused => {
  const { code, responseCode }: SmtpError = typeof error === 'object' && error !== null ? error : {}
  const name = typeof code === 'string' ? code : 'EUNKNOWN'
  const status = typeof responseCode === 'number' ? responseCode : undefined
  return new MailRefused(name, status, status !== undefined && status >= 500 && isAboutMail(name, status))
}

/**
 * Sends each mail on its own connection.
 *
 * Guarantee: nothing is sent in plain text unless `tls` is `none`, and the certificate of the server is verified. Resolves once the
 * server has accepted the mail for its recipient; else rejects with `MailRefused`. A server is given up that is silent for 30 s.
 */
export const createSmtp = async (
  server: SmtpServer,
  { timeoutMs = silentMs }: { timeoutMs?: number | undefined } = {},
): Promise<SendMail> => {
  const { createTransport } = await import('nodemailer')
  const { host, port, tls, user, password, ca } = server
  const options = {
    host,
    port,
    secure: tls === 'implicit',
    // By default it sends in plain text where the server does not offer STARTTLS, or where its offer was removed on the way.
    requireTLS: tls === 'starttls',
    ignoreTLS: tls === 'none',
    connectionTimeout: Math.min(timeoutMs, connectMs),
    greetingTimeout: Math.min(timeoutMs, connectMs),
    socketTimeout: timeoutMs,
    disableFileAccess: true,
    disableUrlAccess: true,
    ...(user !== undefined && { auth: { user, pass: password ?? '' } }),
    tls: { rejectUnauthorized: true, minVersion: 'TLSv1.2' as const, ...(ca !== undefined && { ca }) },
  }
  return async ({ id, from, to, subject, text, html }, signal) => {
    signal.throwIfAborted()
    const transport = createTransport(options)
    try {
      const sending = transport.sendMail({
        messageId: `<${id}@${from.address.slice(from.address.lastIndexOf('@') + 1)}>`,
        from: { ...from },
        // As an object: text with a comma would be read as several addresses.
        to: { name: '', address: to },
        envelope: { from: from.address, to: [to] },
        subject,
        text,
        html,
        headers: { 'Auto-Submitted': 'auto-generated', 'X-Auto-Response-Suppress': 'All' },
      })
      // Its connection goes on until the server has answered or is given up.
      await rejectOnAbort(sending, signal)
    } catch (error) {
      if (signal.aborted) throw error
      throw toRefusal(error)
    } finally {
      transport.close()
    }
  }
}
