import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type BrowserContext, chromium, type Page } from 'playwright-core'
import { reapFolder } from '../harness/reaper.ts'

/** Chromium of the system; null where it is not installed. */
export const findChromium = (): string | null => Bun.which('chromium') ?? Bun.which('google-chrome')

const authenticator = {
  protocol: 'ctap2',
  transport: 'internal',
  hasResidentKey: true,
  hasUserVerification: true,
  isUserVerified: true,
  automaticPresenceSimulation: true,
} as const

/** Pages as a person opens them, in one profile that starts empty. */
export type Browser = {
  readonly context: BrowserContext
  /** A page with an authenticator that holds passkeys and verifies its user without asking. */
  open(url: string): Promise<Page>
  close(): Promise<void>
}

/**
 * Starts Chromium with an empty profile. Names that end in `.test` lead to this machine. `certificateHash` is the SHA-256 of a public
 * key, in base64: certificates with that key count as valid, and so their pages as secure.
 */
export const startChromium = async (executablePath: string, certificateHash: string): Promise<Browser> => {
  const profile = await mkdtemp(join(tmpdir(), 'velro-chromium-'))
  reapFolder(profile)
  const context = await chromium.launchPersistentContext(profile, {
    executablePath,
    headless: true,
    chromiumSandbox: false,
    args: [
      '--host-resolver-rules=MAP *.test 127.0.0.1',
      `--ignore-certificate-errors-spki-list=${certificateHash}`,
      '--disable-dev-shm-usage',
      '--disable-gpu',
    ],
  })
  return {
    context,
    open: async (url) => {
      const page = await context.newPage()
      const devtools = await context.newCDPSession(page)
      await devtools.send('WebAuthn.enable')
      await devtools.send('WebAuthn.addVirtualAuthenticator', { options: authenticator })
      await page.goto(url)
      return page
    },
    close: () => context.close(),
  }
}
