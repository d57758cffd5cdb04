import { closed, id, oneOf, type Static, t, text, timestamp } from '../../http/schema-types.ts'
import { cookies, signInResponse } from '../model.ts'

const methods = ['totp', 'passkey', 'recovery_code'] as const
export type FactorMethod = (typeof methods)[number]

const base64url = (maxLength: number, description?: string) =>
  t.String({ minLength: 1, maxLength, pattern: '^[A-Za-z0-9_-]+$', ...(description !== undefined && { description }) })

const code = t.String({ pattern: '^[0-9]{6}$', description: 'Of the authenticator app. Each is accepted once' })
const recoveryCode = t.String({ minLength: 24, maxLength: 64, description: 'Each is accepted once' })
const name = text(1, 100)

/** Longest that base64url of a credential id may be: 1,023 bytes (Web Authentication, Level 3). */
const maxCredentialIdLength = 1_364

/** The members of a credential in JSON. Browsers and password managers add others, which are ignored. */
const credential = {
  id: base64url(maxCredentialIdLength),
  rawId: base64url(maxCredentialIdLength),
  type: t.Literal('public-key'),
  clientExtensionResults: t.Object({}),
}

const assertion = t.Object(
  {
    ...credential,
    response: t.Object({
      clientDataJSON: base64url(4_096),
      authenticatorData: base64url(2_048),
      signature: base64url(4_096),
      userHandle: t.Optional(base64url(86)),
    }),
  },
  { description: '`toJSON()` of the credential that `navigator.credentials.get` returned' },
)

const attestation = t.Object(
  {
    ...credential,
    response: t.Object({
      clientDataJSON: base64url(4_096),
      attestationObject: base64url(6_144),
      transports: t.Optional(t.Array(t.String({ maxLength: 32 }), { maxItems: 8 })),
    }),
  },
  { description: '`toJSON()` of the credential that `navigator.credentials.create` returned' },
)

/** As the browser takes them: `PublicKeyCredential.parseRequestOptionsFromJSON` and `parseCreationOptionsFromJSON`. */
const browserOptions = (description: string) => t.Object({ challenge: t.String() }, { description })
const requestOptions = browserOptions('For `PublicKeyCredential.parseRequestOptionsFromJSON`')

/** Exactly one of these. */
const presentedFactor = {
  code: t.Optional(code),
  recovery_code: t.Optional(recoveryCode),
  passkey: t.Optional(assertion),
}

const offer = {
  methods: t.Array(oneOf(methods), { description: 'What can be presented' }),
  passkey: t.Union([requestOptions, t.Null()]),
}

const signInToken = base64url(1_024, 'Of the first step. Good for one session')

export const secondFactorRequired = closed({
  sign_in_token: signInToken,
  expires_in: t.Integer({ description: 'Lifetime of `sign_in_token` in seconds' }),
  ...offer,
})
export type SecondFactorRequired = Static<typeof secondFactorRequired>

export const secondStep = closed({ sign_in_token: signInToken, ...presentedFactor, cookies })
export const passkeyOptions = closed({ options: requestOptions })
export const passkeySignIn = closed({
  passkey: assertion,
  device_token: t.Optional(signInResponse.properties.device_token),
  cookies,
})

const typedPassword = t.String({ minLength: 1, maxLength: 1024 })
export const reauthentication = closed({ password: t.Optional(typedPassword), ...presentedFactor })
export const reauthenticationOptions = closed({
  password: t.Boolean({ description: 'Whether the account has a password' }),
  second_factor: t.Boolean({
    description: 'Whether one of `methods` has to be presented too. A passkey suffices by itself',
  }),
  ...offer,
})

export const passkeyParams = closed({ passkey_id: id('Passkey') })
export const newPasskey = closed({ name, passkey: attestation })
export const passkeyChanges = closed({ name })
export const creationOptions = closed({
  options: browserOptions('For `PublicKeyCredential.parseCreationOptionsFromJSON`'),
})

export const passkey = closed({
  id: id('Passkey'),
  name: t.String(),
  synced: t.Boolean({ description: 'Whether it may be on several devices of its owner' }),
  created_at: timestamp(),
  last_used_at: t.Union([timestamp(), t.Null()]),
})
export type Passkey = Static<typeof passkey>

const recoveryCodesOnce = t.Array(t.String(), { description: 'Shown this once. They replace all earlier ones' })
const firstRecoveryCodes = t.Union([recoveryCodesOnce, t.Null()], {
  description: 'With the first factor of the account; else null',
})

export const recoveryCodes = closed({ recovery_codes: recoveryCodesOnce })
export const createdPasskey = closed({ passkey, recovery_codes: firstRecoveryCodes })
export const confirmedTotp = closed({ recovery_codes: firstRecoveryCodes })
export const totpConfirmation = closed({ code })
export const totpSetup = closed({
  secret: t.String({ description: 'Base32, to type into an authenticator app' }),
  uri: t.String({ description: '`otpauth:` URI, to show as a QR code' }),
})

export const secondFactors = closed({
  totp: t.Union([closed({ confirmed_at: timestamp() }), t.Null()]),
  passkeys: t.Array(passkey),
  recovery_codes_left: t.Integer({ minimum: 0 }),
})
export type SecondFactors = Static<typeof secondFactors>
