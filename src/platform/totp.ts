import { Secret, TOTP } from 'otpauth'

/** What every authenticator app can do (RFC 6238): other settings are ignored by some of them. */
const settings = { algorithm: 'SHA1', digits: 6, period: 30 } as const
/** Codes of the step before and of the one after are accepted too, because clocks differ and people type slowly. */
const window = 1
/** As long as the output of SHA-1 (RFC 4226 §4). */
const secretLength = 20

const toSecret = (bytes: Uint8Array) => new Secret({ buffer: Uint8Array.from(bytes).buffer })

export const newTotpSecret = (): Uint8Array => new Secret({ size: secretLength }).bytes

/** A secret as people type it, and as the URI that authenticator apps read from a QR code. */
export const showTotpSecret = (
  bytes: Uint8Array,
  { issuer, account }: { readonly issuer: string; readonly account: string },
): { readonly secret: string; readonly uri: string } => {
  const secret = toSecret(bytes)
  return { secret: secret.base32, uri: new TOTP({ ...settings, secret, issuer, label: account }).toString() }
}

/** The code of a moment. */
export const totpCode = (bytes: Uint8Array, nowMs: number): string =>
  TOTP.generate({ ...settings, secret: toSecret(bytes), timestamp: nowMs })

/**
 * The time step of a code, among those that are accepted now; undefined for any other text. A code is not used up by this: whoever
 * accepts it must store the step, and refuse it and those before it from then on (RFC 6238 §5.2).
 */
export const findTotpStep = (bytes: Uint8Array, code: string, nowMs: number): number | undefined => {
  const delta = TOTP.validate({ ...settings, secret: toSecret(bytes), token: code, timestamp: nowMs, window })
  return delta === null ? undefined : TOTP.counter({ period: settings.period, timestamp: nowMs }) + delta
}
