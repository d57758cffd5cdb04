import { expect, test } from 'bun:test'
import { defaultTexts, type MailTemplate } from '../../src/mail/texts.ts'

/** Notices about changes that an intruder may have made. */
const notices: readonly MailTemplate[] = ['password_changed', 'email_change_undo', 'new_device', 'factor_changed']

test('a mail about a change of the account says what to do if it was not its owner', () => {
  const silent = notices.filter(
    (name) => !/If this was not you, (?:reset|open)/.test(defaultTexts[name].paragraphs.join(' ')),
  )
  expect(silent).toEqual([])
})
