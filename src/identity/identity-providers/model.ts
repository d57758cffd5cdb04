import { closed, id, oneOf, type Static, secretPattern, t, text, timestamp } from '../../http/schema-types.ts'
import { cookies, deviceToken } from '../model.ts'

const opaque = (description: string) => t.String({ minLength: 43, maxLength: 43, pattern: secretPattern, description })

const providerId = t.String({ pattern: '^[a-z0-9_-]{1,64}$', description: 'Name of a configured provider' })
const returnTo = t.String({
  minLength: 1,
  maxLength: 512,
  description: 'One of RETURN_TO_URLS, to the letter. The browser returns to it with `code` or with `error`',
})
const codeChallenge = opaque(
  'SHA-256, in base64url, of a `code_verifier` of 43 characters that the client makes up and keeps (S256 of RFC 7636)',
)
export const providerParams = closed({ provider_id: providerId })

export const providers = closed({ items: t.Array(closed({ id: providerId, name: t.String() })) })

export const start = closed({
  return_to: t.Optional(returnTo),
  code_challenge: t.Optional(codeChallenge),
  ticket: t.Optional(
    t.String({
      pattern: '^[A-Za-z0-9_-]{1,2048}$',
      description: 'Instead of the other two: as in the `url` of a POST',
    }),
  ),
})

export const preparation = closed({
  purpose: {
    ...oneOf(['link', 'reauthenticate'] as const),
    description: 'What the identity will be proven for. The code that the browser comes back with is for this alone',
  },
  return_to: returnTo,
  code_challenge: codeChallenge,
})
export const prepared = closed({
  url: t.String({ description: 'Open it in the browser of the person within a minute' }),
})

/** How a browser returns that was not identified. */
export const returnErrors = {
  'identity_provider.denied': 'the person did not let the provider identify them',
  'identity_provider.refused': 'the answer of the provider does not prove who the person is',
  'identity_provider.unavailable': 'the provider cannot be reached; try again',
  'identity_provider.state_used': 'the browser came back with this answer before',
} as const
export type ReturnError = keyof typeof returnErrors
export const returnErrorWords = Object.entries(returnErrors)
  .map(([code, meaning]) => `\`${code}\` (${meaning})`)
  .join(', ')

export const givenCode = closed({
  code: opaque('As the browser returned with it. Can be used once, within 10 minutes'),
  code_verifier: opaque('Whose `code_challenge` the browser left with'),
})
export const signIn = closed({ ...givenCode.properties, device_token: t.Optional(deviceToken), cookies })

export const linkedIdentity = closed({
  id: id('Linked identity'),
  provider: closed({ id: t.String(), name: text(1, 64) }),
  email: t.Union([t.String(), t.Null()], {
    description: 'Address at the provider when it was linked',
  }),
  created_at: timestamp(),
  last_used_at: timestamp(),
})
export type LinkedIdentity = Static<typeof linkedIdentity>
export const linkedIdentities = closed({ items: t.Array(linkedIdentity) })
export const linkedIdentityParams = closed({ linked_identity_id: id('Linked identity') })
