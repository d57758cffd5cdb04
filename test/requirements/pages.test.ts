import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createMailbox } from '../harness/mailbox.ts'
import { startApp, type TestApp } from '../harness.ts'

const names = ['verify-email', 'reset-password', 'confirm-email', 'restore-email', 'invitation']
let app: TestApp
let pages: string[]
let script: string

const read = async (name: string) => (await fetch(`${app.baseUrl}/account/${name}`)).text()

beforeAll(async () => {
  app = await startApp(createMailbox().options)
  pages = await Promise.all(names.map(read))
  script = await read('page.js')
})
afterAll(() => app.close())

/** The tags of the input fields for a password, on all pages. */
const passwordFields = () =>
  pages.flatMap((page) => page.match(/<input\b[^>]*>/g) ?? []).filter((field) => /name="(?:new_)?password"/.test(field))

describe('a field for a password on a page of the service', () => {
  test('masks its input', () => {
    expect(passwordFields().length).toBeGreaterThan(1)
    for (const field of passwordFields()) expect(field).toContain('type="password"')
  })

  test('works with password managers and with pasted text', () => {
    for (const field of passwordFields()) {
      expect(field).toMatch(/autocomplete="(?:new|current)-password"/)
      expect(field).not.toMatch(/readonly|disabled|onpaste|maxlength="\d{1,2}"/)
    }
    expect(script).not.toMatch(/paste|keydown|keypress|contextmenu|beforeinput/)
  })
})

test('no page of the service keeps a session: the one that signs in logs out at once, also after a failure', () => {
  const signIns = script.match(/\/api\/v1\/auth\/(?:login|register|refresh)/g) ?? []
  // The password, and the second factor of an account that has one.
  expect(signIns).toHaveLength(2)
  expect(script).toMatch(/auth\/login[\s\S]*?try \{[\s\S]*?\} finally \{[^}]*\/api\/v1\/auth\/logout/)
  for (const page of [...pages, script]) expect(page).not.toMatch(/localStorage|sessionStorage|document\.cookie/)
})
