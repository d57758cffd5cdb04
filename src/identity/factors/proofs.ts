import { Buffer } from 'node:buffer'
import { invalidInput } from '../../fault.ts'
import { encodeBase64url } from '../../kit/base64url.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Deadline } from '../../kit/deadline.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import { type Secrets, sha256 } from '../../platform/secrets.ts'
import { findTotpStep } from '../../platform/totp.ts'
import {
  type AuthenticationResponseJSON,
  challengeIn,
  type PublicKeyCredentialRequestOptionsJSON,
  type Webauthn,
} from '../../platform/webauthn.ts'
import type { UserRow } from '../store.ts'
import { type Challenges, challengeTtlMs } from './challenges.ts'
import type { FactorNotices } from './factor-notices.ts'
import type { FactorMethod } from './model.ts'
import { type PasskeyRow, toStoredCredential } from './passkey-store.ts'
import { hashRecoveryCode } from './recovery-codes.ts'
import type { FactorRows, FactorStore } from './store.ts'

/** One of these is presented as a second factor. */
export type PresentedFactor = {
  readonly code?: string | undefined
  readonly recovery_code?: string | undefined
  readonly passkey?: AuthenticationResponseJSON | undefined
}

/** What a factor is presented for. A passkey has to sign a challenge for this purpose, with this text in it. */
export type FactorUse = {
  readonly purpose: 'passkey-second-factor' | 'passkey-reauthentication'
  readonly boundTo: string
  /** Of the client, for the notice that a recovery code was used. */
  readonly address: string
}

/** A factor that was right. It counts once `accept` has returned true in the transaction: false means that it was used before. */
export type Proof = { readonly method: FactorMethod; readonly accept: (tx: TransactionSql) => Promise<boolean> }

/** What a person can present, and the options of `navigator.credentials.get` where a passkey is among it. */
export type Offer = {
  readonly methods: FactorMethod[]
  readonly passkey: PublicKeyCredentialRequestOptionsJSON | null
}

/** Throws where not exactly one factor is presented. */
export const requireOneFactor = ({ code, recovery_code, passkey }: PresentedFactor): void => {
  if ([code, recovery_code, passkey].filter((each) => each !== undefined).length === 1) return
  throw invalidInput('body', '', 'must have exactly one of code, recovery_code and passkey')
}

export const hasFactor = ({ code, recovery_code, passkey }: PresentedFactor): boolean =>
  code !== undefined || recovery_code !== undefined || passkey !== undefined

/** Whether the authenticator returned the handle of another account. It returns none where the options named the passkey. */
export const isForeignHandle = ({ response }: AuthenticationResponseJSON, userId: string): boolean =>
  response.userHandle !== undefined && response.userHandle !== encodeBase64url(Buffer.from(userId))

type Dependencies = {
  store: FactorStore
  secrets: Pick<Secrets, 'unseal'>
  /** Undefined: no domain is configured for passkeys. */
  webauthn: Webauthn | undefined
  challenges: Challenges
  notices: FactorNotices
  clock: Clock
}

/** Checks second factors: codes of authenticator apps, recovery codes and passkeys. */
export const createProofs = ({ store, secrets, webauthn, challenges, notices, clock }: Dependencies) => {
  const checkCode = (userId: string, { totp }: FactorRows, code: string): Proof | undefined => {
    if (totp === undefined || totp.confirmed_at === null) return undefined
    const step = findTotpStep(secrets.unseal('totp-secret', totp.sealed_secret, userId), code, clock.now())
    if (step === undefined || step <= totp.last_step) return undefined
    return { method: 'totp', accept: (tx) => store.acceptStep(tx, userId, step) }
  }

  const checkRecoveryCode = async (
    deadline: Deadline,
    userId: string,
    code: string,
    address: string,
  ): Promise<Proof | undefined> => {
    const hash = hashRecoveryCode(userId, code)
    if (!(await store.hasRecoveryCode(deadline, userId, hash))) return undefined
    return {
      method: 'recovery_code',
      accept: async (tx) => {
        if (!(await store.useRecoveryCode(tx, userId, hash))) return false
        await notices.add(tx, { userId, kind: 'recovery_code_used', address }, new Date(clock.now()))
        return true
      },
    }
  }

  /** The signature of a passkey of the account on a challenge that was opened already. */
  const checkSignature = async (
    passkey: PasskeyRow | undefined,
    response: AuthenticationResponseJSON,
    challenge: string,
  ): Promise<Proof | undefined> => {
    if (webauthn === undefined || passkey === undefined || isForeignHandle(response, passkey.user_id)) return undefined
    const use = await webauthn.verifyAssertion(response, challenge, toStoredCredential(passkey))
    if (use === undefined) return undefined
    return {
      method: 'passkey',
      accept: async (tx) =>
        (await challenges.use(tx, challenge)) &&
        (await store.recordUse(tx, passkey, { ...use, at: new Date(clock.now()) })),
    }
  }

  const checkPasskey = (
    userId: string,
    { passkeys }: FactorRows,
    response: AuthenticationResponseJSON,
    { purpose, boundTo }: FactorUse,
  ): Promise<Proof | undefined> | undefined => {
    const challenge = challengeIn(response.response.clientDataJSON)
    const bound = challenges.open(purpose, challenge)
    if (challenge === undefined || bound?.['user'] !== userId || bound['to'] !== boundTo) return undefined
    const own = passkeys.find((each) => toStoredCredential(each).id === response.id)
    return checkSignature(own, response, challenge)
  }

  return {
    checkSignature,

    /** The proof of a presented factor; undefined where it is wrong, or was used before. */
    check: async (
      deadline: Deadline,
      userId: string,
      presented: PresentedFactor,
      use: FactorUse,
    ): Promise<Proof | undefined> => {
      const { code, recovery_code, passkey } = presented
      if (recovery_code !== undefined) return checkRecoveryCode(deadline, userId, recovery_code, use.address)
      const rows = await store.find(deadline, userId)
      if (passkey !== undefined) return checkPasskey(userId, rows, passkey, use)
      return code === undefined ? undefined : checkCode(userId, rows, code)
    },

    /** What an account can present. */
    offer: async (deadline: Deadline, { id }: Pick<UserRow, 'id'>, use: Omit<FactorUse, 'address'>): Promise<Offer> => {
      const { totp, passkeys, recoveryCodesLeft } = await store.find(deadline, id)
      const usable = webauthn === undefined ? [] : passkeys
      const challenge = challenges.issue(use.purpose, { user: id, to: use.boundTo })
      return {
        methods: [
          ...(totp !== undefined && totp.confirmed_at !== null ? (['totp'] as const) : []),
          ...(usable.length > 0 ? (['passkey'] as const) : []),
          ...(recoveryCodesLeft > 0 ? (['recovery_code'] as const) : []),
        ],
        passkey:
          webauthn === undefined || usable.length === 0
            ? null
            : await webauthn.requestOptions(challenge, usable.map(toStoredCredential), challengeTtlMs),
      }
    },
  }
}

export type Proofs = ReturnType<typeof createProofs>

/** The passkey challenge of a sign-in or a session is bound to this text of its token or id. */
export const bindingOf = (text: string): string => encodeBase64url(sha256(Buffer.from(text)))
