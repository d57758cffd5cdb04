import { type MailSettings, readMail } from '../../src/mail/settings.ts'
import type { MailMessage, SendMail } from '../../src/platform/smtp.ts'
import type { TestApp, TestAppOptions } from './app.ts'

/** Settings with which mails are sent. */
export const testMailSettings = (variables: Readonly<Record<string, string>> = {}): MailSettings => {
  const problems: string[] = []
  const settings = readMail(
    (name) => variables[name] ?? (name === 'SMTP_URL' ? 'log:' : undefined),
    { isDeployment: false, publicUrl: 'https://velro.example', port: 0, requireVerifiedEmail: false },
    problems,
  )
  if (settings === undefined || problems.length > 0) throw new Error(problems.join('\n'))
  return settings
}

/** The token in the link of a mail. */
export const tokenIn = ({ text }: MailMessage): string => {
  const [, token] = /#([A-Za-z0-9_-]{43})\s/.exec(text) ?? []
  if (token === undefined) throw new Error(`no link in the mail: ${text}`)
  return token
}

/** Takes the mails of an app: give `options` to `startApp`. */
export const createMailbox = () => {
  const mails: MailMessage[] = []
  const sendMail: SendMail = async (message) => void mails.push(message)
  const options: TestAppOptions & { config: { mail: MailSettings } } = {
    sendMail,
    config: { mail: testMailSettings() },
  }
  return {
    options,
    mails,
    /** The mails to an address so far, oldest first, once all that was asked for has been sent. */
    to: async (app: TestApp, email: string): Promise<MailMessage[]> => {
      await app.services.outbound.drain()
      return mails.filter(({ to }) => to === email)
    },
    /** The token in the newest mail to an address whose link leads to a page below /account. */
    tokenTo: async (app: TestApp, email: string, page: string): Promise<string> => {
      await app.services.outbound.drain()
      const mail = mails.findLast(({ to, text }) => to === email && text.includes(`/account/${page}#`))
      if (mail === undefined) throw new Error(`no mail with a link to ${page} for ${email}`)
      return tokenIn(mail)
    },
  }
}

export type Mailbox = ReturnType<typeof createMailbox>
