import { afterEach, beforeAll, describe, expect, test } from 'bun:test'
import { createServer, type Server } from 'node:net'
import type { SMTPServerOptions } from 'smtp-server'
import type { SmtpServer } from '../../src/mail/settings.ts'
import { createSmtp, type MailMessage, MailRefused } from '../../src/platform/smtp.ts'
import { type Certificate, makeCertificate, refusal, startSmtpServer } from '../harness/smtp.ts'

const message: MailMessage = {
  id: 'task-1',
  from: { name: 'Doe, Ada', address: 'no-reply@velro.example' },
  to: 'bob@example.com',
  subject: 'Grüße',
  text: 'Text with a long line '.repeat(20),
  html: '<p>HTML</p>',
}
const signal = new AbortController().signal

let certificate: Certificate
let other: Certificate
const closing: (() => Promise<void>)[] = []
beforeAll(async () => {
  certificate = await makeCertificate()
  other = await makeCertificate('other.example')
})
afterEach(async () => {
  for (const close of closing.splice(0)) await close()
})

const signIn: SMTPServerOptions['onAuth'] = (_auth, _session, done) => done(null, { user: 'velro' })

const start = async (options: SMTPServerOptions = {}) => {
  const server = await startSmtpServer({ key: certificate.key, cert: certificate.cert, onAuth: signIn, ...options })
  closing.push(server.close)
  return server
}

const send = async (server: Partial<SmtpServer>, timeoutMs = 5_000, given = signal): Promise<string> => {
  const usual = {
    host: 'localhost',
    tls: 'starttls',
    user: undefined,
    password: undefined,
    ca: certificate.cert,
  } as const
  const sendMail = await createSmtp({ port: 0, ...usual, ...server }, { timeoutMs })
  return sendMail(message, given).then(
    () => 'sent',
    (error) => {
      if (error instanceof MailRefused)
        return `${error.code} ${error.status ?? '-'} ${error.isPermanent ? 'permanent' : 'temporary'}`
      throw error
    },
  )
}

describe('a mail server', () => {
  test('gets a mail over STARTTLS, signed in, with one recipient, both bodies and the same Message-ID each time', async () => {
    const users: unknown[] = []
    const { port, mails } = await start({
      authOptional: false,
      onAuth: ({ username, password }, _session, done) => {
        users.push(`${username}:${password}`)
        done(null, { user: username })
      },
    })
    const signedIn = { port, user: 'velro', password: 'p w' }
    expect([await send(signedIn), await send(signedIn)]).toEqual(['sent', 'sent'])
    expect(users).toEqual(['velro:p w', 'velro:p w'])
    const [first, second] = mails
    expect(first).toMatchObject({ from: 'no-reply@velro.example', to: ['bob@example.com'] })
    for (const { source } of [first, second].flatMap((mail) => mail ?? [])) {
      expect(source).toMatch(/^Message-ID: <task-1@velro\.example>\r$/im)
      expect(source).toMatch(/^From: "Doe, Ada" <no-reply@velro\.example>\r$/m)
      expect(source).toMatch(/^To: <?bob@example\.com>?\r$/m)
      expect(source).toMatch(/^Auto-Submitted: auto-generated\r$/m)
      expect(source).toContain('Content-Type: text/plain')
      expect(source).toContain('Content-Type: text/html')
    }
  })

  test('with TLS from the start gets a mail', async () => {
    const { port, mails } = await start({ secure: true })
    expect(await send({ port, tls: 'implicit' })).toBe('sent')
    expect(mails).toHaveLength(1)
  })

  test('that does not offer STARTTLS gets nothing, not even the password', async () => {
    const seen: string[] = []
    const { port, mails } = await start({
      disabledCommands: ['STARTTLS'],
      onAuth: (_auth, _session, done) => {
        seen.push('auth')
        done(null, { user: 'velro' })
      },
      onMailFrom: (_address, _session, done) => {
        seen.push('mail')
        done()
      },
    })
    expect(await send({ port, user: 'velro', password: 'secret' })).toMatch(/^ETLS .* temporary$/)
    expect([seen, mails]).toEqual([[], []])
  })

  test('whose certificate is of another name or authority gets nothing', async () => {
    const wrongName = await start({ key: other.key, cert: other.cert })
    expect(await send({ port: wrongName.port, ca: other.cert })).toMatch(/ temporary$/)
    const unknown = await start()
    expect(await send({ port: unknown.port, ca: undefined })).toMatch(/ temporary$/)
    expect([...wrongName.mails, ...unknown.mails]).toEqual([])
  })

  test('gets a mail in plain text only where that was asked for', async () => {
    const { port, mails } = await start({ disabledCommands: ['STARTTLS'] })
    expect(await send({ port, tls: 'none' })).toBe('sent')
    expect(mails).toHaveLength(1)
  })
})

describe('a mail is refused', () => {
  test.each([
    ['for now by 421 at the greeting', { onConnect: (_s, done) => done(refusal(421)) }, /^\S+ 421 temporary$/],
    [
      'for now by 451 at the recipient',
      { onRcptTo: (_a, _s, done) => done(refusal(451)) },
      /^EENVELOPE 451 temporary$/,
    ],
    [
      'for good by 550 at the recipient',
      { onRcptTo: (_a, _s, done) => done(refusal(550)) },
      /^EENVELOPE 550 permanent$/,
    ],
    [
      'for good by 554 after its content',
      { onData: (stream, _s, done) => void stream.resume().on('end', () => done(refusal(554))) },
      /^EMESSAGE 554 permanent$/,
    ],
    [
      'for now by 530 that asks to sign in',
      { onMailFrom: (_a, _s, done) => done(refusal(530)) },
      /^EENVELOPE 530 temporary$/,
    ],
    [
      'for now where signing in fails, which an operator can mend',
      { onAuth: (_a, _s, done) => done(refusal(535)) },
      /^EAUTH 535 temporary$/,
    ],
  ] satisfies [string, SMTPServerOptions, RegExp][])('%s', async (_, options, expected) => {
    const { port } = await start(options)
    expect(await send({ port, user: 'velro', password: 'wrong' })).toMatch(expected)
  })

  test('without what the server answered, which may name the recipient', async () => {
    const { port } = await start({ onRcptTo: (_a, _s, done) => done(refusal(550, 'no bob@example.com here')) })
    const sendMail = await createSmtp({
      host: 'localhost',
      port,
      tls: 'starttls',
      user: undefined,
      password: undefined,
      ca: certificate.cert,
    })
    const error = await sendMail(message, signal).catch((thrown) => thrown)
    expect(error).toBeInstanceOf(MailRefused)
    expect(`${error.message} ${error.stack} ${String(error.cause)}`).not.toContain('bob@')
  })
})

describe('a server that hangs', () => {
  const hang = async (answer: (text: string) => string | undefined): Promise<Server> => {
    const server = createServer((socket) => {
      socket.on('error', () => {})
      const first = answer('')
      if (first !== undefined) socket.write(first)
      socket.on('data', (bytes) => {
        const reply = answer(bytes.toString())
        if (reply !== undefined) socket.write(reply)
      })
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()))
    closing.push(async () => void server.close())
    return server
  }
  const portOf = (server: Server) => (server.address() as { port: number }).port

  test.each([
    ['before its greeting', () => undefined],
    ['after its greeting', (text: string) => (text === '' ? '220 x ESMTP\r\n' : undefined)],
    [
      'in the middle of a mail',
      (text: string) => (text === '' ? '220 x ESMTP\r\n' : text.startsWith('EHLO') ? '250 x\r\n' : undefined),
    ],
  ])('%s is given up after its time', async (_, answer) => {
    const server = await hang(answer)
    const startedMs = performance.now()
    expect(await send({ host: '127.0.0.1', port: portOf(server), tls: 'none' }, 300)).toMatch(/temporary$/)
    expect(performance.now() - startedMs).toBeLessThan(5_000)
  })

  test('is left at once when the mail is aborted', async () => {
    const server = await hang(() => undefined)
    const abort = new AbortController()
    const sending = send({ host: '127.0.0.1', port: portOf(server), tls: 'none' }, 60_000, abort.signal)
    setTimeout(() => abort.abort(), 50)
    await Promise.race([
      sending.catch(() => {}),
      Bun.sleep(5_000).then(() => Promise.reject(new Error('still sending'))),
    ])
  })

  test('that is not there is a refusal for now', async () => {
    expect(await send({ host: '127.0.0.1', port: 1, tls: 'none' }, 1_000)).toMatch(/^E\S+ - temporary$/)
  })
})
