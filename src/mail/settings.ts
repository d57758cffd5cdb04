import { readFileSync } from 'node:fs'
import { defaultTexts, type MailTexts, readTexts } from './texts.ts'

/** Where mails go, as SMTP_URL names it. */
export type SmtpServer = {
  readonly host: string
  readonly port: number
  /** `implicit`: the connection begins with TLS. `starttls`: it must be upgraded. `none`: plain text. */
  readonly tls: 'implicit' | 'starttls' | 'none'
  readonly user: string | undefined
  readonly password: string | undefined
  /** PEM of an own certificate authority. Undefined: those of the runtime. */
  readonly ca: string | undefined
}

/** The flows whose mails have a link. Each has a page: of the application, or a small one of ours. */
export const linkFlows = [
  'verify_email',
  'password_reset',
  'email_change',
  'email_undo',
  'invitation',
  'account_invitation',
] as const
export type LinkFlow = (typeof linkFlows)[number]

export type MailAddress = { readonly name: string; readonly address: string }

export type MailSettings = {
  /** Undefined: mails are written to the log. */
  readonly server: SmtpServer | undefined
  readonly from: MailAddress
  readonly texts: MailTexts
  /** The link of each flow, with `{token}` in it. */
  readonly links: Readonly<Record<LinkFlow, string>>
}

type Read = (name: string) => string | undefined

const readFile = (name: string, file: string, problems: string[]): string | undefined => {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    problems.push(`${name} names a file that cannot be read`)
    return undefined
  }
}

const decoded = (text: string, problems: string[]): string | undefined => {
  if (text === '') return undefined
  try {
    return decodeURIComponent(text)
  } catch {
    problems.push('SMTP_URL must have its user and password percent-encoded')
    return undefined
  }
}

const isLoopback = (host: string): boolean => /^(localhost|127(\.\d+){3}|\[?::1\]?)$/.test(host)

/**
 * Reads `smtp://user:password@host:587` (STARTTLS is required) or `smtps://…` (TLS from the start), with the parameters `ca`, a file,
 * and `starttls=off`, for plain text without a password. Adds each mistake to `problems`.
 */
export const readSmtpUrl = (text: string, problems: string[]): SmtpServer | undefined => {
  const url = URL.parse(text)
  if (url === null || !/^smtps?:$/.test(url.protocol) || url.hostname === '' || !/^\/?$/.test(url.pathname)) {
    problems.push('SMTP_URL must be a URL such as smtp://user:password@smtp.example.com:587 or smtps://…, or log:')
    return undefined
  }
  const { hostname, protocol, searchParams } = url
  if ([...searchParams.keys()].some((name) => name !== 'ca' && name !== 'starttls'))
    problems.push('SMTP_URL must have no parameters except ca and starttls')
  const starttls = searchParams.get('starttls')
  if (starttls !== null && (starttls !== 'off' || protocol === 'smtps:'))
    problems.push('SMTP_URL must have starttls=off or no such parameter, and none with smtps:')
  const tls = protocol === 'smtps:' ? 'implicit' : starttls === 'off' ? 'none' : 'starttls'
  if (tls === 'none' && url.username + url.password !== '' && !isLoopback(hostname))
    problems.push('SMTP_URL must have no password with starttls=off: it would be sent in plain text')
  const usualPort = { implicit: 465, starttls: 587, none: 25 }[tls]
  const ca = searchParams.get('ca')
  return {
    host: hostname.replace(/^\[(.*)\]$/, '$1'),
    port: url.port === '' ? usualPort : Number(url.port),
    tls,
    user: decoded(url.username, problems),
    password: decoded(url.password, problems),
    ca: ca === null ? undefined : readFile('SMTP_URL', ca, problems),
  }
}

const address = /^[^\s@<>"(),:;\\[\]]+@[^\s@<>"(),:;\\[\]]+$/

/** Reads `no-reply@example.com` or `Velro <no-reply@example.com>`. */
export const readMailFrom = (text: string, problems: string[]): MailAddress | undefined => {
  const [, quoted = '', bracketed] = /^(.*?)\s*<([^<>]*)>$/.exec(text) ?? []
  const found = bracketed ?? text
  const name = quoted.replace(/^"(.*)"$/, '$1').trim()
  if (!address.test(found) || /[\p{Cc}\p{Bidi_Control}<>]/u.test(name) || /\p{Cc}/u.test(text)) {
    problems.push('MAIL_FROM must be an e-mail address, or a name and one, such as Velro <no-reply@example.com>')
    return undefined
  }
  return { name, address: found }
}

const exampleLink = 'https://app.example.com/reset?token={token}'

const readLink = (name: string, given: string, problems: string[]): string => {
  const url = URL.parse(given.replaceAll('{token}', 'token'))
  const isWeb = url !== null && /^https?:$/.test(url.protocol)
  const isApp =
    url !== null &&
    /^[a-z][a-z0-9+.-]*:$/.test(url.protocol) &&
    !/^(javascript|data|file|blob|vbscript):$/.test(url.protocol)
  if ((!isWeb && !isApp) || given.split('{token}').length !== 2)
    problems.push(`${name} must be a URL that contains {token} once, such as ${exampleLink}`)
  return given
}

const pageOf: Readonly<Record<LinkFlow, string>> = {
  verify_email: '/account/verify-email',
  password_reset: '/account/reset-password',
  email_change: '/account/confirm-email',
  email_undo: '/account/restore-email',
  invitation: '/account/invitation',
  account_invitation: '/account/choose-password',
}

export const linkVariableOf = (flow: LinkFlow): string => `APP_URL_${flow.toUpperCase()}`

/**
 * Undefined: no mail is sent. The default of SMTP_URL is `log:` with the embedded Postgres, for development, and nothing in a
 * deployment. Links lead to our own pages where no APP_URL names another page: the token is behind `#`, which browsers
 * send to no server, so that no log has it.
 */
export const readMail = (
  text: Read,
  {
    isDeployment,
    publicUrl,
    port,
    requireVerifiedEmail,
  }: { isDeployment: boolean; publicUrl: string | undefined; port: number; requireVerifiedEmail: boolean },
  problems: string[],
): MailSettings | undefined => {
  const given = text('SMTP_URL') ?? (isDeployment ? undefined : 'log:')
  const isLog = given === 'log:'
  const origin = publicUrl ?? (isLog ? `http://localhost:${port}` : undefined)
  const links = Object.fromEntries(
    linkFlows.map((flow) => {
      const own = text(linkVariableOf(flow))
      const page = `${origin ?? ''}${pageOf[flow]}#{token}`
      return [flow, own === undefined ? page : readLink(linkVariableOf(flow), own, problems)]
    }),
  ) as Record<LinkFlow, string>
  const textsFile = text('MAIL_TEXTS')
  const json = textsFile === undefined ? undefined : readFile('MAIL_TEXTS', textsFile, problems)
  const texts = json === undefined ? defaultTexts : readTexts(json, problems)
  const fromText = text('MAIL_FROM')
  const from = fromText === undefined ? undefined : readMailFrom(fromText, problems)
  if (given === undefined) {
    if (requireVerifiedEmail)
      problems.push('SMTP_URL must be set when REQUIRE_VERIFIED_EMAIL is on: addresses are verified by mail')
    return undefined
  }
  const server = isLog ? undefined : readSmtpUrl(given, problems)
  if (!isLog && fromText === undefined)
    problems.push('MAIL_FROM must be set when SMTP_URL is, such as Velro <no-reply@example.com>')
  if (!isLog && origin === undefined && linkFlows.some((flow) => text(linkVariableOf(flow)) === undefined))
    problems.push(
      `PUBLIC_URL must be set when SMTP_URL is, because links in mails begin with it, unless all of ${linkFlows.map(linkVariableOf).join(', ')} are set`,
    )
  return { server, from: from ?? { name: 'Velro', address: 'no-reply@localhost' }, texts, links }
}

/** The link of a flow with a token. */
export const linkOf = ({ links }: Pick<MailSettings, 'links'>, flow: LinkFlow, token: string): string =>
  links[flow].replace('{token}', token)
