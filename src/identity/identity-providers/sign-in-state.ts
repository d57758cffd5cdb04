import { Buffer } from 'node:buffer'
import { createHmac, randomBytes } from 'node:crypto'
import { decodeBase64url, encodeBase64url } from '../../kit/base64url.ts'
import type { Clock } from '../../kit/clock.ts'
import { isId } from '../../kit/id.ts'
import { type Secrets, sha256 } from '../../platform/secrets.ts'

/** What the identity is proven for. The last two are about the account of a signed-in person. */
export type Purpose = 'sign_in' | 'link' | 'reauthenticate'

/** What a person asked for before leaving for the provider. */
export type Intent = {
  readonly purpose: Purpose
  /** Owner of the account. Undefined for a sign-in. */
  readonly userId: string | undefined
  /** One of the configured URLs. */
  readonly returnTo: string
  /** Of the client, S256: only the holder of its verifier can use the code that it gets. */
  readonly codeChallenge: string
}

const purposes: readonly Purpose[] = ['sign_in', 'link', 'reauthenticate']
const stateLifeMs = 600_000
const ticketLifeMs = 60_000
const keyLength = 32

export const signInLifeS = stateLifeMs / 1_000

/** The key of a browser, in its cookie. Undefined for another text. */
export const decodeBrowserKey = (text: string | undefined): Uint8Array | undefined => {
  const key = text === undefined ? undefined : decodeBase64url(text)
  return key?.length === keyLength ? key : undefined
}
export const newBrowserKey = (): Uint8Array => randomBytes(keyLength)

/**
 * The code verifier and the nonce of a sign-in. Both follow from the key of the browser and the state, so that they are stored
 * nowhere, and differ for every state.
 */
export const proofsOf = (browserKey: Uint8Array, state: string) => {
  const derive = (purpose: string) =>
    encodeBase64url(createHmac('sha256', browserKey).update(`${purpose} ${state}`).digest())
  const codeVerifier = derive('code_verifier')
  return { codeVerifier, nonce: derive('nonce'), codeChallenge: challengeOf(codeVerifier) }
}

/** S256 (RFC 7636 §4.2). */
export const challengeOf = (codeVerifier: string): string => encodeBase64url(sha256(Buffer.from(codeVerifier)))

const readIntent = (text: string, nowMs: number): Intent | undefined => {
  const [name, userId, returnTo, codeChallenge, untilMs] = JSON.parse(text) as unknown[]
  const purpose = purposes.find((known) => known === name)
  if (purpose === undefined || typeof untilMs !== 'number' || untilMs <= nowMs) return undefined
  if (typeof returnTo !== 'string' || typeof codeChallenge !== 'string') return undefined
  return { purpose, userId: isId(userId) ? userId : undefined, returnTo, codeChallenge }
}

/**
 * The `state` that travels to the provider and back, and the ticket with which a signed-in person leaves for it. Both are sealed,
 * so nothing is stored before a person returns.
 *
 * Guarantee: a state opens for 10 minutes, for the provider that it was made for, and in the browser that it was made for; a
 * ticket for one minute and its provider. Anything else is undefined.
 */
export const createSignInStates = (secrets: Pick<Secrets, 'seal' | 'unseal'>, clock: Clock) => {
  const seal = ({ purpose, userId, returnTo, codeChallenge }: Intent, lifeMs: number, label: string): string => {
    const content = [purpose, userId ?? null, returnTo, codeChallenge, clock.now() + lifeMs]
    return encodeBase64url(secrets.seal('identity-provider', JSON.stringify(content), label))
  }
  const open = (text: string, label: string): Intent | undefined => {
    const sealed = decodeBase64url(text)
    if (sealed === undefined) return undefined
    try {
      return readIntent(secrets.unseal('identity-provider', sealed, label).toString(), clock.now())
    } catch {
      return undefined
    }
  }
  const stateLabel = (providerId: string, browserKey: Uint8Array) =>
    `state ${providerId} ${encodeBase64url(sha256(browserKey))}`
  const ticketLabel = (providerId: string) => `ticket ${providerId}`
  return {
    sealState: (intent: Intent, providerId: string, browserKey: Uint8Array): string =>
      seal(intent, stateLifeMs, stateLabel(providerId, browserKey)),
    openState: (state: string, providerId: string, browserKey: Uint8Array): Intent | undefined =>
      open(state, stateLabel(providerId, browserKey)),
    sealTicket: (intent: Intent, providerId: string): string => seal(intent, ticketLifeMs, ticketLabel(providerId)),
    openTicket: (ticket: string, providerId: string): Intent | undefined => open(ticket, ticketLabel(providerId)),
  }
}

export type SignInStates = ReturnType<typeof createSignInStates>
