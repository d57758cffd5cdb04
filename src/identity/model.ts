import type { FaultCode } from '../fault.ts'
import {
  closed,
  email,
  id,
  nameText,
  oneOf,
  pageOf,
  type Static,
  secretPattern,
  t,
  timestamp,
} from '../http/schema-types.ts'
import { maxEmailLength } from '../kit/email.ts'
import { plans } from '../limits/plans.ts'

export const password = t.String({
  minLength: 8,
  maxLength: 1024,
  description:
    '8 to 1,024 characters, or more than 8 by configuration, compared after Unicode NFC normalization. Common and breached passwords are refused, and those that consist of the address or the name of the service',
})
/** How a new password is refused; see `PasswordRules`. */
export const passwordErrors = [
  'identity.password_common',
  'identity.password_predictable',
  'identity.password_breached',
] as const satisfies readonly FaultCode[]
/** A password to verify. Only its length is checked, so that passwords accepted under older rules still work. */
const typedPassword = t.String({ minLength: 1, maxLength: 1024 })
const refreshToken = t.String({ minLength: 43, maxLength: 43, pattern: secretPattern })

export const deviceToken = t.String({ minLength: 43, maxLength: 43, pattern: secretPattern })

export const cookies = t.Optional(
  t.Boolean({
    description:
      'Whether to keep the tokens in cookies that scripts cannot read, for a page in a browser: the response then has none. The request must have an Origin that is this service or named in CORS_ORIGINS. Default false',
  }),
)

export const registration = closed({ email, password, display_name: t.Optional(nameText(100)), cookies })
export const credentials = closed({
  email: t.String({ minLength: 1, maxLength: maxEmailLength }),
  password: typedPassword,
  device_token: t.Optional({
    ...deviceToken,
    description:
      '`device_token` of an earlier sign-in to this account on this device; one that is not known any more is ignored',
  }),
  cookies,
})
export const refresh = closed({
  refresh_token: t.Optional({ ...refreshToken, description: 'Required, unless `cookies` is true' }),
  cookies: t.Optional(
    t.Boolean({
      description:
        'Whether the refresh token is in a cookie, and its successor is to be: after a sign-in with `cookies`. Default false',
    }),
  ),
})
export const passwordChange = closed({ current_password: typedPassword, new_password: password })
export const profile = closed({ display_name: nameText(100) })
export const sessionParams = closed({ session_id: id('Session') })

export const user = closed({
  id: id('User'),
  email: t.String(),
  display_name: t.String(),
  role: oneOf(['user', 'admin'] as const),
  plan: oneOf(plans),
  status: oneOf(['active', 'suspended', 'deleted'] as const),
  email_verified: t.Boolean({ description: 'Whether the address is known to belong to the user' }),
  second_factor: t.Boolean({ description: 'Whether an authenticator app or a passkey is set up' }),
  created_at: timestamp(),
  updated_at: timestamp(),
})
export type User = Static<typeof user>

const quota = (used: string) =>
  closed({
    limit: t.Integer({ minimum: 1, description: 'By the plan, or set by an operator' }),
    used: t.Integer({ minimum: 0, description: used }),
  })
export const quotas = closed({
  stored_bytes: quota('Bytes that are stored, or reserved by unfinished generations'),
  projects: quota('Projects that the user owns'),
  teams: quota('Teams that the user owns'),
  team_members: closed({ limit: t.Integer({ minimum: 1, description: 'Members that each of these teams may have' }) }),
  sessions: quota('Live sessions'),
  jobs_under_way: quota('Generations that are queued or processing'),
})

export const tokenResponse = closed({
  access_token: t.String({ description: 'JWT (RFC 9068), EdDSA' }),
  refresh_token: t.String({ description: 'Opaque. Can be used once: a refresh returns its successor' }),
  token_type: t.Literal('Bearer'),
  expires_in: t.Integer({ description: 'Lifetime of the access token in seconds' }),
  user,
})
export type TokenResponse = Static<typeof tokenResponse>

export const signInResponse = closed({
  ...tokenResponse.properties,
  device_token: {
    ...deviceToken,
    description:
      'Keep it on the device, and send it with the next login to this account: failed attempts of others then do not lock this device out. Valid for 180 days after the last sign-in with it. Not a credential',
  },
})
export type SignInResponse = Static<typeof signInResponse>

const cookieResponse = closed({
  expires_in: tokenResponse.properties.expires_in,
  user,
})
/** The tokens, or for a request with `cookies` the same without them. */
export const signInAnswer = t.Union([signInResponse, cookieResponse])
export const refreshAnswer = t.Union([tokenResponse, cookieResponse])

export const session = closed({
  id: id('Session'),
  current: t.Boolean({ description: 'Whether this is the session of the request' }),
  device: closed({
    browser: t.Union([t.String(), t.Null()], { description: 'Such as Firefox. Null where `user_agent` names none' }),
    platform: t.Union([t.String(), t.Null()], { description: 'Such as Android. Null where `user_agent` names none' }),
  }),
  user_agent: t.String({ description: 'As the client sent it when it signed in, its first 512 characters' }),
  address: t.String({ description: 'From which the client signed in' }),
  country: t.Union([t.String({ minLength: 2, maxLength: 2 }), t.Null()], {
    description: 'Of that address, as ISO 3166-1 names it, such as DE. Null where it is not known',
  }),
  created_at: timestamp(),
  last_seen_at: {
    ...timestamp(),
    description:
      'When the session last signed in or refreshed its tokens: at most the lifetime of an access token ago while it is in use',
  },
  expires_at: timestamp(),
})
export type Session = Static<typeof session>
export const sessionPage = pageOf(session)

export const jwks = t.Object({
  keys: t.Array(
    t.Object({
      kty: t.String(),
      crv: t.String(),
      x: t.String(),
      kid: t.String(),
      alg: t.String(),
      use: t.String(),
    }),
  ),
})
export type PublicKey = Static<typeof jwks>['keys'][number]
