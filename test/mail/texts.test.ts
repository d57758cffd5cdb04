import { describe, expect, test } from 'bun:test'
import { quotable } from '../../src/kit/plain-text.ts'
import { renderMail } from '../../src/mail/render.ts'
import { linkFlows, linkOf, linkVariableOf, readMail, readMailFrom, readSmtpUrl } from '../../src/mail/settings.ts'
import { defaultTexts, mailParameters, mailTemplates, readTexts } from '../../src/mail/texts.ts'

const filled = (template: (typeof mailTemplates)[number], value: string) =>
  renderMail(
    defaultTexts,
    template,
    Object.fromEntries(
      mailParameters[template].map((name) => [name, name === 'link' ? 'https://a.example/#x' : value]),
    ) as never,
    'Velro',
  )

describe('every mail', () => {
  test.each([...mailTemplates])(
    '%s has a text and HTML with the same link, and no parameter is left open',
    (template) => {
      const { subject, text, html } = filled(template, 'value')
      for (const part of [subject, text, html]) expect(part).not.toMatch(/\{[a-z_]+\}|undefined/)
      const hasLink = mailParameters[template].some((name) => name === 'link')
      expect(text.includes('\nhttps://a.example/#x\n')).toBe(hasLink)
      expect(html.includes('href="https://a.example/#x"')).toBe(hasLink)
    },
  )

  test.each([...mailTemplates])('%s loads nothing from elsewhere and escapes what people chose', (template) => {
    const { html } = filled(template, `<img src="https://evil.example/x">'&`)
    expect(html).not.toMatch(/<(img|script|link|style|iframe|object)|<[^>]*(src|background)=|url\(|@import/)
  })

  test.each([...mailTemplates])('%s keeps values on one line and in the direction of writing', (template) => {
    const { subject, text, html } = filled(template, 'a\r\nBcc: b@example.com\u202e\u2028x')
    expect(subject).not.toMatch(/[\r\n]/)
    for (const part of [text, html]) expect(part).not.toMatch(/\r|\nBcc|[\u202e\u2028]/)
  })
})

test('a name of a stranger is quoted in a mail, unless it could become a link', () => {
  expect(quotable('Ada & the “Lighthouses”')).toBe('Ada & the “Lighthouses”')
  expect(quotable(' a\r\nb\u202e ')).toBe('a b')
  for (const name of ['https://evil.example', 'you won at evil.example/prize', 'www.evil', '  ', 'Пример.рф'])
    expect(quotable(name)).toBeUndefined()
  expect(quotable('x'.repeat(101))).toBe(`${'x'.repeat(99)}…`)
})

describe('own texts', () => {
  const read = (value: unknown) => {
    const problems: string[] = []
    return { texts: readTexts(typeof value === 'string' ? value : JSON.stringify(value), problems), problems }
  }

  test('take the place of the usual ones, member by member', () => {
    const { texts, problems } = read({ password_reset: { subject: 'Neues Passwort für {product}' } })
    expect(problems).toEqual([])
    expect(texts.password_reset).toEqual({
      ...defaultTexts.password_reset,
      subject: 'Neues Passwort für {product}',
    })
    expect(texts.verify_email).toEqual(defaultTexts.verify_email)
  })

  test.each([
    ['text that is not JSON', 'no', 'MAIL_TEXTS must name a file of JSON'],
    ['a list', [], 'MAIL_TEXTS must name a file that holds an object of templates'],
    ['an unknown template', { reset: {} }, 'MAIL_TEXTS must have no templates except'],
    ['an unknown member', { email_taken: { body: 'x' } }, 'MAIL_TEXTS.email_taken must have no members except'],
    ['a subject of two lines', { email_taken: { subject: 'a\nb' } }, 'MAIL_TEXTS.email_taken.subject must be one line'],
    [
      'an unknown parameter',
      { email_taken: { subject: '{link}' } },
      'must use no parameter except product, not {link}',
    ],
    [
      'no link',
      { password_reset: { paragraphs: ['x'] } },
      'MAIL_TEXTS.password_reset.paragraphs must have the paragraph {link}',
    ],
  ])('with %s are refused', (_, value, problem) => {
    expect(read(value).problems.join('\n')).toContain(problem)
  })
})

describe('the settings of mails', () => {
  const read = (variables: Record<string, string>, isDeployment = true, publicUrl: string | undefined = undefined) => {
    const problems: string[] = []
    return {
      mail: readMail(
        (name) => variables[name],
        { isDeployment, publicUrl, port: 3000, requireVerifiedEmail: false },
        problems,
      ),
      problems,
    }
  }

  test('without SMTP_URL are the log with the embedded Postgres, and none in a deployment', () => {
    expect(read({}, false).mail).toMatchObject({
      server: undefined,
      links: { password_reset: 'http://localhost:3000/account/reset-password#{token}' },
    })
    expect(read({})).toEqual({ mail: undefined, problems: [] })
  })

  test('name a server that must offer STARTTLS, one with TLS from the start, or one in plain text on request', () => {
    const server = (url: string) => readSmtpUrl(url, [])
    expect(server('smtp://u%40x:p%2Fw@mail.example')).toEqual({
      host: 'mail.example',
      port: 587,
      tls: 'starttls',
      user: 'u@x',
      password: 'p/w',
      ca: undefined,
    })
    expect(server('smtps://mail.example')).toMatchObject({ port: 465, tls: 'implicit' })
    expect(server('smtp://[::1]:2525?starttls=off')).toMatchObject({ host: '::1', port: 2525, tls: 'none' })
  })

  test.each([
    ['http://mail.example', 'SMTP_URL must be a URL such as'],
    ['smtp://mail.example/path', 'SMTP_URL must be a URL such as'],
    ['smtp://mail.example?secure=no', 'SMTP_URL must have no parameters except ca and starttls'],
    ['smtps://mail.example?starttls=off', 'SMTP_URL must have starttls=off or no such parameter'],
    ['smtp://u:p@mail.example?starttls=off', 'SMTP_URL must have no password with starttls=off'],
    ['smtp://mail.example?ca=/no/such/file', 'SMTP_URL names a file'],
  ])('refuse %s', (url, problem) => {
    const { problems } = read({ SMTP_URL: url, MAIL_FROM: 'a@b.example' }, true, 'https://x.example')
    expect(problems.join('\n')).toContain(problem)
  })

  test('need MAIL_FROM and where links lead', () => {
    const { problems } = read({ SMTP_URL: 'smtps://mail.example' })
    expect(problems).toEqual([
      'MAIL_FROM must be set when SMTP_URL is, such as Velro <no-reply@example.com>',
      expect.stringContaining('PUBLIC_URL must be set when SMTP_URL is'),
    ])
    const own = Object.fromEntries(
      linkFlows.map((flow) => [linkVariableOf(flow), `https://app.example/${flow}?t={token}`]),
    )
    const settings = read({ SMTP_URL: 'smtps://mail.example', MAIL_FROM: 'a@b.example', ...own })
    expect(settings.problems).toEqual([])
    expect(linkOf(settings.mail as never, 'password_reset', 'abc')).toBe('https://app.example/password_reset?t=abc')
  })

  test.each([
    'https://app.example/reset',
    'javascript:alert({token})',
    '/reset/{token}',
    'https://a.example/{token}/{token}',
  ])('refuse %s as a link', (url) => {
    expect(read({ APP_URL_PASSWORD_RESET: url }).problems.join()).toContain('APP_URL_PASSWORD_RESET must be a URL')
  })

  test('read MAIL_FROM with and without a name, and refuse what could forge a header', () => {
    const from = (text: string) => readMailFrom(text, [])
    expect(from('no-reply@b.example')).toEqual({ name: '', address: 'no-reply@b.example' })
    expect(from('"Doe, Ada" <a@b.example>')).toEqual({ name: 'Doe, Ada', address: 'a@b.example' })
    for (const text of ['Velro', 'a@b, c@d', 'a <b@c> <d@e>', 'A\r\nBcc: x <a@b.example>', 'A\u202e <a@b.example>'])
      expect(from(text)).toBeUndefined()
  })
})
