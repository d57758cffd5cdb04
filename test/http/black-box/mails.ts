import { beforeAll, describe, expect, test } from 'bun:test'
import { randomBytes } from 'node:crypto'
import { until } from '../../faults/support.ts'
import type { Person } from '../../harness.ts'
import { type Group, missingHeaders, refusal } from './driver.ts'

const auth = '/api/v1/auth'
const newAddress = () => `mailed-${randomBytes(6).toString('hex')}@example.com`
const never = 'A'.repeat(43)

/** The mails of a run are in the output of its server (`SMTP_URL=log:`). Without that the tests only ask for some. */
export const mails: Group = (world) =>
  describe('mails', () => {
    let person: Person
    beforeAll(async () => {
      person = await world().register()
    })

    const post = (path: string, body: unknown, token?: string) =>
      world().post(auth + path, body, token === undefined ? {} : { token })
    const confirmations = {
      '/verify-email/confirm': {},
      '/password-reset/confirm': { new_password: 'nine grey bottles standing' },
      '/email/confirm': {},
      '/email/undo': {},
    } as const
    const confirm = async (path: keyof typeof confirmations, token: string) =>
      refusal(await post(path, { token, ...confirmations[path] }))

    /** Pages are for people, and in no document. */
    const getPage = async (path: string) => {
      const response = await fetch(`${world().subject.baseUrl}/account/${path}`)
      return { status: response.status, headers: response.headers, text: await response.text() }
    }

    /** The token in the newest mail to an address whose link leads to a page. Undefined where the output is not known. */
    const tokenTo = async (address: string, page: string): Promise<string | undefined> => {
      const { output } = world().subject
      if (output === undefined) return undefined
      const find = () =>
        output()
          .split('\n')
          .filter((line) => line.includes('"mail.logged"') && line.includes(`"${address}"`))
          .flatMap((line) => new RegExp(`/account/${page}#([\\w-]{43})`).exec(line)?.[1] ?? [])
          .at(-1)
      await until(() => find() !== undefined, `a mail to ${page} came`)
      return find()
    }

    test('are asked for with the same answer, whether or not the address has an account', async () => {
      for (const path of ['/verify-email', '/password-reset']) {
        const answers = [await post(path, { email: person.email }), await post(path, { email: newAddress() })]
        for (const { status, body } of answers) expect([status, body]).toEqual([202, { status: 'accepted' }])
      }
      expect((await post('/email', { email: newAddress() }, person.token)).status).toBe(202)
    })

    test('have links that a token made up does not open', async () => {
      for (const path of Object.keys(confirmations) as (keyof typeof confirmations)[])
        expect(await confirm(path, never)).toBe('404 one_time_token.not_found')
    })

    test('lead to pages that use no token, and that work without another server', async () => {
      for (const page of ['verify-email', 'reset-password', 'confirm-email', 'restore-email', 'invitation']) {
        const { status, headers, text } = await getPage(`${page}?token=${never}`)
        expect([status, headers.get('content-type')]).toEqual([200, 'text/html; charset=utf-8'])
        expect(missingHeaders(headers)).toEqual([])
        expect(text).not.toContain(never)
        expect(text).not.toMatch(/(?:src|href)="(?!\/account\/|data:,)/)
      }
      for (const [file, type] of [
        ['page.js', 'text/javascript'],
        ['page.css', 'text/css'],
      ])
        expect((await getPage(`${file}`)).headers.get('content-type')).toBe(`${type}; charset=utf-8`)
    })

    test('verify, reset, change and restore once each', async () => {
      const changing = await world().register()
      const verify = await tokenTo(changing.email, 'verify-email')
      if (verify === undefined) return
      expect(await confirm('/verify-email/confirm', verify)).toBe('204 undefined')
      const email = newAddress()
      await post('/email', { email }, changing.token)
      const change = (await tokenTo(email, 'confirm-email')) ?? ''
      expect(await confirm('/email/confirm', change)).toBe('204 undefined')
      const undo = (await tokenTo(changing.email, 'restore-email')) ?? ''
      expect(await confirm('/email/undo', undo)).toBe('204 undefined')
      await post('/password-reset', { email: changing.email })
      const reset = (await tokenTo(changing.email, 'reset-password')) ?? ''
      expect(await confirm('/password-reset/confirm', reset)).toBe('204 undefined')
      for (const [path, token] of [
        ['/verify-email/confirm', verify],
        ['/password-reset/confirm', reset],
        ['/email/confirm', change],
        ['/email/undo', undo],
      ] as const)
        expect(await confirm(path, token)).toBe('410 one_time_token.gone')
      const { password } = { password: confirmations['/password-reset/confirm'].new_password }
      expect((await world().login({ ...changing, password })).user.email_verified).toBe(true)
    })

    test('do not change an address to that of another account', async () => {
      const changing = await world().register()
      const email = newAddress()
      await post('/email', { email }, changing.token)
      const token = await tokenTo(email, 'confirm-email')
      if (token === undefined) return
      await world().register({ email })
      expect(await confirm('/email/confirm', token)).toBe('409 identity.email_taken')
    })

    test('do nothing for a suspended account', async () => {
      const operator = await world().operator()
      const suspended = await world().register()
      const verify = await tokenTo(suspended.email, 'verify-email')
      if (verify === undefined || operator === undefined) return
      const [second, third] = [newAddress(), newAddress()]
      await post('/email', { email: second }, suspended.token)
      await confirm('/email/confirm', (await tokenTo(second, 'confirm-email')) ?? '')
      const undo = (await tokenTo(suspended.email, 'restore-email')) ?? ''
      await post('/email', { email: third }, suspended.token)
      const change = (await tokenTo(third, 'confirm-email')) ?? ''
      await post('/password-reset', { email: second })
      const reset = (await tokenTo(second, 'reset-password')) ?? ''
      const other = await world().register()
      const verifyOther = (await tokenTo(other.email, 'verify-email')) ?? ''
      for (const { id } of [suspended, other])
        await world().patch(`/api/v1/users/${id}`, { status: 'suspended' }, { token: operator.token })
      for (const [path, token] of [
        ['/verify-email/confirm', verifyOther],
        ['/password-reset/confirm', reset],
        ['/email/undo', undo],
      ] as const)
        expect(await confirm(path, token)).toBe('403 identity.account_suspended')
      // It ended with the sessions.
      expect(await confirm('/email/confirm', change)).toBe('410 one_time_token.gone')
    })
  })
