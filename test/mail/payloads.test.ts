import { expect, test } from 'bun:test'
import { createPayloads, isHopeless } from '../../src/mail/service.ts'
import { createSecrets } from '../../src/platform/secrets.ts'

const payloadsOf = (secret: string, previous?: string) => {
  const secrets = createSecrets(secret, previous)
  return createPayloads({
    seal: (text) => secrets.seal('mail', text, 'test'),
    open: (sealed) => secrets.unseal('mail', sealed, 'test').toString(),
  })
}
const [older, newer] = ['a secret of tests, the older one', 'a secret of tests, the newer one']
const errorOf = (open: () => unknown): unknown => {
  try {
    return open()
  } catch (error) {
    return error
  }
}

test('a sealed payload opens under its secret, also once that is the previous one', () => {
  const sealed = payloadsOf(older).seal({ email: 'a@example.com' })
  expect(JSON.stringify(sealed)).not.toContain('example')
  expect(payloadsOf(older).open(sealed)).toEqual({ email: 'a@example.com' })
  expect(payloadsOf(newer, older).open(sealed)).toEqual({ email: 'a@example.com' })
})

test('a payload of another secret is left to another instance, and a changed one is given up', () => {
  const sealed = payloadsOf(newer).seal({ n: 1 })
  expect(isHopeless(errorOf(() => payloadsOf(older).open(sealed)))).toBe(false)
  const at = sealed.sealed.length - 4
  const changed = {
    sealed: `${sealed.sealed.slice(0, at)}${sealed.sealed[at] === 'A' ? 'B' : 'A'}${sealed.sealed.slice(at + 1)}`,
  }
  for (const payload of [changed, {}, null])
    expect(isHopeless(errorOf(() => payloadsOf(newer).open(payload)))).toBe(true)
})
