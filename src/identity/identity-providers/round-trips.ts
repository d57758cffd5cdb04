import { Buffer } from 'node:buffer'
import { randomBytes } from 'node:crypto'
import { Fault, invalidInput } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { RecordSecurityEvent } from '../../http/security-events.ts'
import { encodeBase64url } from '../../kit/base64url.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Deadline } from '../../kit/deadline.ts'
import { ProviderFailed, type ProviderFailure } from '../../platform/identity-provider.ts'
import { sha256 } from '../../platform/secrets.ts'
import type { Codes } from './codes.ts'
import type { ReturnError } from './model.ts'
import type { ProvenIdentity, ProviderClient } from './provider-clients.ts'
import { type Intent, proofsOf, type SignInStates } from './sign-in-state.ts'

type Dependencies = {
  clients: ReadonlyMap<string, ProviderClient>
  states: SignInStates
  codes: Codes
  /** The configured URLs to which people may return. */
  returnTo: readonly string[]
  publicUrl: string | undefined
  clock: Clock
  record: RecordSecurityEvent
}

/** A browser that goes to a provider, or comes back from one. */
export type Visit = {
  readonly providerId: string
  /** The key in the cookie of the browser. */
  readonly browserKey: Uint8Array
  readonly address: string
}

const codeOf: Readonly<Record<ProviderFailure, ReturnError>> = {
  denied: 'identity_provider.denied',
  refused: 'identity_provider.refused',
  unavailable: 'identity_provider.unavailable',
}

/** The rest of the deadline after the provider was asked, to answer the browser. */
const answeringMs = 500
/** How long ago a person may have authenticated at the provider to be authenticated again here. */
export const reauthenticatedWithinMs = 300_000
/** For clocks that differ. */
const skewMs = 30_000

const providerSignal = (deadline: Deadline): AbortSignal =>
  AbortSignal.timeout(Math.max(1, Math.floor(deadline.remainingMs() - answeringMs)))

/**
 * The way of a browser to an identity provider and back (OpenID Connect Core 1.0 §3.1, with PKCE). The identity is kept for the
 * client that presents the code which the browser comes back with, and the verifier of the code challenge of this client.
 *
 * Guarantee: a browser returns only to a URL of the configuration, and an answer counts only once, for the provider, in the browser
 * and for the purpose with which the person left. A provider that cannot be reached, or whose answer proves no identity, sends
 * the browser back with an `error`.
 */
export const createRoundTrips = ({
  clients,
  states,
  codes,
  returnTo: allowed,
  publicUrl = '',
  clock,
  record,
}: Dependencies) => {
  /** Throws `identity_provider.not_found`. */
  const getClient = (id: string): ProviderClient => {
    const client = clients.get(id)
    if (client === undefined) throw new Fault('identity_provider.not_found')
    return client
  }

  const requireAllowed = (returnTo: string, place: 'query' | 'body'): void => {
    if (allowed.includes(returnTo)) return
    throw invalidInput(place, '/return_to', 'must be one of RETURN_TO_URLS, to the letter')
  }

  const redirectUriOf = ({ settings }: ProviderClient) =>
    `${publicUrl}/api/v1/auth/identity-providers/${settings.id}/callback`

  const back = ({ returnTo }: Intent, name: 'code' | 'error', value: string): string => {
    const url = new URL(returnTo)
    url.searchParams.set(name, value)
    return url.href
  }

  const backWithError = (context: RequestContext, intent: Intent, visit: Visit, code: ReturnError, detail: string) => {
    const { providerId: provider_id, address } = visit
    record(context, 'identity.not_proven', { address, provider_id, purpose: intent.purpose, code, detail })
    return back(intent, 'error', code)
  }

  const afterFailure = (context: RequestContext, intent: Intent, visit: Visit, error: unknown): string => {
    if (!(error instanceof ProviderFailed)) throw error
    return backWithError(context, intent, visit, codeOf[error.reason], error.message)
  }

  const leave = async (context: RequestContext, intent: Intent, visit: Visit): Promise<string> => {
    const client = getClient(visit.providerId)
    const state = states.sealState(intent, visit.providerId, visit.browserKey)
    const { nonce, codeChallenge } = proofsOf(visit.browserKey, state)
    const again = intent.purpose === 'reauthenticate'
    const request = {
      redirectUri: redirectUriOf(client),
      state,
      nonce,
      codeChallenge,
      prompt: again ? client.settings.reauthenticationPrompt : undefined,
      maxAgeS: again ? reauthenticatedWithinMs / 1_000 : undefined,
    }
    try {
      return await client.authorizationUrl(request, providerSignal(context.deadline))
    } catch (error) {
      return afterFailure(context, intent, visit, error)
    }
  }

  /** Whether the provider says that the person authenticated too long ago. Where it says nothing, the round trip counts. */
  const isTooOld = ({ purpose }: Intent, { authenticatedAtMs }: ProvenIdentity): boolean =>
    purpose === 'reauthenticate' &&
    authenticatedAtMs !== undefined &&
    authenticatedAtMs < clock.now() - reauthenticatedWithinMs - skewMs

  return {
    list: () => ({ items: [...clients.values()].map(({ settings: { id, name } }) => ({ id, name })) }),

    /** The address at the provider to which a browser goes to sign in. */
    start: async (
      context: RequestContext,
      { returnTo, codeChallenge }: Pick<Intent, 'returnTo' | 'codeChallenge'>,
      visit: Visit,
    ): Promise<string> => {
      getClient(visit.providerId)
      requireAllowed(returnTo, 'query')
      return leave(context, { purpose: 'sign_in', userId: undefined, returnTo, codeChallenge }, visit)
    },

    /** As `start`, for the ticket of a signed-in person. */
    startWithTicket: async (context: RequestContext, ticket: string, visit: Visit): Promise<string> => {
      getClient(visit.providerId)
      const intent = states.openTicket(ticket, visit.providerId)
      if (intent === undefined || !allowed.includes(intent.returnTo))
        throw new Fault('identity_provider.ticket_invalid')
      return leave(context, intent, visit)
    },

    /** Where a signed-in person opens a browser to prove an identity for the account. */
    prepare: (providerId: string, intent: Intent): { url: string } => {
      const { settings } = getClient(providerId)
      requireAllowed(intent.returnTo, 'body')
      const ticket = states.sealTicket(intent, settings.id)
      return { url: `${publicUrl}/api/v1/auth/identity-providers/${settings.id}/start?ticket=${ticket}` }
    },

    /** Where a browser goes that came back from a provider. `search` is the query of its URL, with the answer of the provider. */
    finish: async (
      context: RequestContext,
      { state, search }: { state: string; search: string },
      visit: Omit<Visit, 'browserKey'> & { readonly browserKey: Uint8Array | undefined },
    ): Promise<string> => {
      const client = getClient(visit.providerId)
      const { browserKey } = visit
      const intent = browserKey && states.openState(state, visit.providerId, browserKey)
      if (browserKey === undefined || intent === undefined || !allowed.includes(intent.returnTo))
        throw new Fault('identity_provider.state_invalid')
      const known = { ...visit, browserKey }
      const stateHash = sha256(Buffer.from(state))
      if (!(await codes.claim(context.deadline, stateHash, intent))) {
        return backWithError(context, intent, known, 'identity_provider.state_used', 'the state was used before')
      }
      let identity: ProvenIdentity
      try {
        const checks = { state, ...proofsOf(browserKey, state) }
        const callback = new URL(redirectUriOf(client) + search)
        identity = await client.identify(callback, checks, providerSignal(context.deadline))
      } catch (error) {
        return afterFailure(context, intent, known, error)
      }
      if (isTooOld(intent, identity)) {
        const detail = 'the provider says that the person authenticated too long ago'
        return backWithError(context, intent, known, 'identity_provider.refused', detail)
      }
      const code = randomBytes(32)
      await codes.issue(context.deadline, stateHash, code, { providerId: visit.providerId, ...identity })
      return back(intent, 'code', encodeBase64url(code))
    },
  }
}

export type RoundTrips = ReturnType<typeof createRoundTrips>
