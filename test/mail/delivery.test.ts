import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { createSmtp } from '../../src/platform/smtp.ts'
import { until } from '../faults/support.ts'
import { type Certificate, makeCertificate, refusal, startSmtpServer } from '../harness/smtp.ts'
import { api, type Runtime, register, startApp, startServer, testMailSettings } from '../harness.ts'

let certificate: Certificate
beforeAll(async () => {
  certificate = await makeCertificate()
})

describe.each(['bun', 'deno'] satisfies Runtime[])('a server on %s', (runtime) => {
  test('sends the mail of a new account by SMTP with STARTTLS, signed in, once', async () => {
    const signedIn: unknown[] = []
    const smtp = await startSmtpServer({
      key: certificate.key,
      cert: certificate.cert,
      authOptional: false,
      onAuth: ({ username, password }, _session, done) => {
        signedIn.push([username, password])
        done(null, { user: 'velro' })
      },
    })
    const server = await startServer({
      runtime,
      env: {
        SMTP_URL: `smtp://velro:p%40ss@localhost:${smtp.port}?ca=${encodeURIComponent(certificate.file)}`,
        MAIL_FROM: 'Velro <no-reply@velro.example>',
        PUBLIC_URL: 'https://velro.example',
      },
    })
    const person = await register(api(server.baseUrl))
    await until(() => smtp.mails.length > 0, 'the mail came')
    // The line follows the answer of the mail server; a shutdown in between would cut it off.
    await until(() => server.output().includes('"mail.sent"'), 'the mail is logged as sent')
    await server.stop()
    await smtp.close()
    expect(smtp.mails).toMatchObject([{ from: 'no-reply@velro.example', to: [person.email] }])
    expect(smtp.mails[0]?.source).toContain('https://velro.example/account/verify-email#')
    expect(signedIn).toEqual([['velro', 'p@ss']])
    expect(server.output()).toContain('"mail.sent"')
    expect(server.output()).not.toContain(person.email)
  })
})

describe('a mail server that refuses', () => {
  const clock = manualClock(Date.now())
  /** What it answers about recipients, in their order; nothing: it accepts. */
  const answers: (number | undefined)[] = []
  let smtp: Awaited<ReturnType<typeof startSmtpServer>>
  let app: Awaited<ReturnType<typeof startApp>>
  beforeAll(async () => {
    smtp = await startSmtpServer({
      key: certificate.key,
      cert: certificate.cert,
      onRcptTo: (_address, _session, done) => {
        const status = answers.shift()
        done(status === undefined ? null : refusal(status))
      },
    })
    const server = {
      host: 'localhost',
      port: smtp.port,
      tls: 'starttls',
      user: undefined,
      password: undefined,
      ca: certificate.cert,
    } as const
    app = await startApp({ clock, config: { mail: testMailSettings() }, sendMail: await createSmtp(server) })
  })
  afterAll(async () => {
    await app.close()
    await smtp.close()
  })
  const drain = () => app.services.outbound.drain()
  const waiting = async () => (await app.services.outbound.countUnfinished()).get('mail') ?? 0
  const reasons = async () => (await api(app.baseUrl).get('/ready')).body.reasons

  test('for now gets the mail again after a pause, and is reported until it takes one', async () => {
    answers.push(451, 421)
    const { email } = await register(api(app.baseUrl))
    await drain()
    expect([smtp.mails.length, await waiting(), await reasons()]).toEqual([0, 1, ['mail.unavailable']])
    clock.advance(20_000)
    await drain()
    expect([smtp.mails.length, await waiting()]).toEqual([0, 1])
    clock.advance(40_000)
    await drain()
    expect([smtp.mails.map(({ to }) => to), await waiting(), await reasons()]).toEqual([[[email]], 0, []])
  })

  test('for good gets the mail once', async () => {
    const before = smtp.mails.length
    answers.push(550)
    await register(api(app.baseUrl))
    await drain()
    clock.advance(3_600_000)
    await drain()
    expect([smtp.mails.length - before, await waiting(), await reasons()]).toEqual([0, 0, []])
  })

  test('until its link has expired gets the mail no more', async () => {
    const { email } = await register(api(app.baseUrl))
    await drain()
    const before = smtp.mails.length
    answers.push(451)
    await api(app.baseUrl).post('/api/v1/auth/password-reset', { email })
    await drain()
    clock.advance(15 * 60_000)
    await drain()
    expect([smtp.mails.length - before, await waiting()]).toEqual([0, 0])
  })
})
