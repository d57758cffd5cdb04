import { Buffer } from 'node:buffer'
import {
  type AuthenticationResponseJSON,
  generateAuthenticationOptions,
  generateRegistrationOptions,
  type PublicKeyCredentialCreationOptionsJSON,
  type PublicKeyCredentialRequestOptionsJSON,
  type RegistrationResponseJSON,
  verifyAuthenticationResponse,
  verifyRegistrationResponse,
} from '@simplewebauthn/server'
import { decodeAttestationObject } from '@simplewebauthn/server/helpers'
import { decodeBase64url } from '../kit/base64url.ts'

export type {
  AuthenticationResponseJSON,
  PublicKeyCredentialCreationOptionsJSON,
  PublicKeyCredentialRequestOptionsJSON,
  RegistrationResponseJSON,
}

/** The domain that passkeys are bound to, and the origins of the pages that may use them. */
export type RelyingParty = { readonly id: string; readonly name: string; readonly origins: readonly string[] }

/** EdDSA, ES256 and RS256. Named, because the library also offers what depends on the runtime. */
const algorithms = [-8, -7, -257]

export type CredentialRef = { readonly id: string; readonly transports: readonly string[] }

/** What is stored of a passkey to verify its signatures. */
export type StoredCredential = CredentialRef & { readonly publicKey: Uint8Array; readonly counter: number }

export type NewCredential = StoredCredential & {
  /** Whether it can be copied to other devices, and whether it has been. */
  readonly backupEligible: boolean
  readonly backedUp: boolean
}

const toDescriptors = (credentials: readonly CredentialRef[]) =>
  credentials.map(({ id, transports }) => ({ id, transports: [...transports] as never[] }))

/** Undefined where the library throws, which it does for every response that is not valid. */
const orUndefined = async <T>(verify: () => Promise<T>): Promise<T | undefined> => {
  try {
    return await verify()
  } catch {
    return undefined
  }
}

/** The challenge that a response of an authenticator signs; undefined where it cannot be read. */
export const challengeIn = (clientDataJson: string): string | undefined => {
  const bytes = decodeBase64url(clientDataJson)
  if (bytes === undefined) return undefined
  try {
    const data: unknown = JSON.parse(Buffer.from(bytes).toString())
    const challenge = typeof data === 'object' && data !== null && 'challenge' in data ? data.challenge : undefined
    return typeof challenge === 'string' ? challenge : undefined
  } catch {
    return undefined
  }
}

/**
 * Passkeys (Web Authentication, Level 3). The authenticator must have verified its user, by a PIN or a fingerprint: then a passkey
 * is two factors at once. No attestation is asked for, and one that is sent all the same is refused: nothing of it is checked.
 */
export const createWebauthn = ({ id: rpID, name: rpName, origins }: RelyingParty) => ({
  /** For `navigator.credentials.create`. `exclude` are the passkeys that the account has. */
  creationOptions: (
    challenge: Uint8Array,
    user: { readonly id: Uint8Array; readonly name: string; readonly displayName: string },
    exclude: readonly CredentialRef[],
    timeoutMs: number,
  ): Promise<PublicKeyCredentialCreationOptionsJSON> =>
    generateRegistrationOptions({
      rpID,
      rpName,
      userID: Uint8Array.from(user.id),
      userName: user.name,
      userDisplayName: user.displayName,
      challenge: Uint8Array.from(challenge),
      timeout: timeoutMs,
      attestationType: 'none',
      excludeCredentials: toDescriptors(exclude),
      authenticatorSelection: { residentKey: 'required', userVerification: 'required' },
      supportedAlgorithmIDs: algorithms,
    }),

  /** For `navigator.credentials.get`. Without `allow` the person chooses among all passkeys for this service. */
  requestOptions: (
    challenge: Uint8Array,
    allow: readonly CredentialRef[] | undefined,
    timeoutMs: number,
  ): Promise<PublicKeyCredentialRequestOptionsJSON> =>
    generateAuthenticationOptions({
      rpID,
      challenge: Uint8Array.from(challenge),
      timeout: timeoutMs,
      userVerification: 'required',
      ...(allow !== undefined && { allowCredentials: toDescriptors(allow) }),
    }),

  /** The new passkey; undefined where the response is not valid for this challenge. */
  verifyRegistration: (response: RegistrationResponseJSON, challenge: string): Promise<NewCredential | undefined> =>
    orUndefined(async () => {
      const attestation = decodeBase64url(response.response.attestationObject)
      if (attestation === undefined) return undefined
      if (decodeAttestationObject(Uint8Array.from(attestation)).get('fmt') !== 'none') return undefined
      const { registrationInfo } = await verifyRegistrationResponse({
        response,
        expectedChallenge: challenge,
        expectedOrigin: [...origins],
        expectedRPID: rpID,
        requireUserVerification: true,
        supportedAlgorithmIDs: algorithms,
      })
      // The library does not compare the two.
      if (registrationInfo === undefined || registrationInfo.credential.id !== response.id) return undefined
      const { credential, credentialDeviceType, credentialBackedUp } = registrationInfo
      return {
        id: credential.id,
        publicKey: credential.publicKey,
        counter: credential.counter,
        transports: credential.transports ?? [],
        backupEligible: credentialDeviceType === 'multiDevice',
        backedUp: credentialBackedUp,
      }
    }),

  /** The new state of the passkey; undefined where the response is not valid for this challenge and this passkey. */
  verifyAssertion: (
    response: AuthenticationResponseJSON,
    challenge: string,
    { id, publicKey, counter, transports }: StoredCredential,
  ): Promise<{ readonly counter: number; readonly backedUp: boolean } | undefined> =>
    orUndefined(async () => {
      if (response.id !== id) return undefined
      const { verified, authenticationInfo } = await verifyAuthenticationResponse({
        response,
        expectedChallenge: challenge,
        expectedOrigin: [...origins],
        expectedRPID: rpID,
        requireUserVerification: true,
        credential: { id, publicKey: Uint8Array.from(publicKey), counter, transports: [...transports] },
      })
      if (!verified) return undefined
      return { counter: authenticationInfo.newCounter, backedUp: authenticationInfo.credentialBackedUp }
    }),
})

export type Webauthn = ReturnType<typeof createWebauthn>
