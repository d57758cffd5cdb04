import { describe, expect, test } from 'bun:test'
import { readFile } from 'node:fs/promises'
import { recentAuthenticationMs } from '../../src/access/guard/recent-authentication.ts'
import { parseConfig } from '../../src/config.ts'
import { sessionLife } from '../../src/identity/session-rules.ts'
import { defaultPolicy } from '../../src/limits/policy.ts'

const read = (path: string) => readFile(new URL(`../../${path}`, import.meta.url), 'utf8')
const chapter = await read('src/identity/README.md')
const sectionOf = (heading: string) =>
  chapter
    .split(/^## /m)
    .find((part) => part.startsWith(`${heading}\n`))
    ?.replaceAll(/\s+/g, ' ') ?? ''
const dayMs = 86_400_000

describe('the chapter on identity says', () => {
  test('how long a session and its access tokens last, as the program has it, and why longer than NIST recommends', () => {
    const section = sectionOf('Sessions')
    expect(section).toContain(`ends ${sessionLife.idleMs / dayMs} days after its last refresh`)
    expect(section).toContain(`and ${sessionLife.absoluteMs / dayMs} days after the sign-in in any case`)
    expect(section).toContain(`\`ACCESS_TOKEN_SECONDS\` (${parseConfig({}).accessTokenTtlMs / 60_000} minutes)`)
    expect(section).toContain(`an authentication within the last ${recentAuthenticationMs / 60_000} minutes`)
    expect(section).toMatch(/NIST SP 800-63B-4 recommends .* which is not: /)
  })

  test('how many sessions an account may have by its plan, and what happens beyond', () => {
    const { free, pro, enterprise } = defaultPolicy.quotas.sessions
    const section = sectionOf('Sessions')
    expect(section).toContain(`(${free}, ${pro} or ${enterprise})`)
    expect(section).toContain('a further sign-in ends the one that was seen least recently')
  })

  test('which words a password may not be made of, and what configures more', () => {
    const section = sectionOf('Passwords')
    for (const words of ['The words are `velro`', '`PASSWORD_WORDS`', 'those of the e-mail address'])
      expect(section).toContain(words)
    expect(section).toContain('NIST SP 800-63B-4 (3.1.1.2) asks for 15 characters')
  })

  test('how guessed passwords are limited, what configures it, and how the owner is not locked out', () => {
    const section = sectionOf('Guessed passwords')
    for (const words of ['tenth pauses it for 30 seconds', 'the hundredth', '`LIMITS` does not switch this off'])
      expect(section).toContain(words)
    expect(section).toMatch(/A known device or network is let in while unknown sources pause/)
  })

  test('why a second factor is not required of everybody, and what stands in for it', () => {
    const section = sectionOf('Ways to authenticate')
    expect(section).toContain('OWASP ASVS 5.0 (6.3.3)')
    expect(section).toMatch(/Velro does not require it of every account: .* Instead - .*`requires_second_factor`/)
  })

  test('how sessions here and at identity providers depend on each other', () => {
    const section = sectionOf('Sessions')
    expect(section).toContain('The end of the session at the provider does not end it')
    expect(section).toContain('Where a recent authentication is needed the provider is asked for a new one')
  })
})

test('the chapter on identity providers says how strong a sign-in counts where the provider does not say', async () => {
  const providers = (await read('src/identity/identity-providers/README.md')).replaceAll(/\s+/g, ' ')
  expect(providers).toContain('the strength of an authentication is that of a session at the provider')
  expect(sectionOf('Ways to authenticate')).toContain('one factor, whatever the provider asked for')
})
