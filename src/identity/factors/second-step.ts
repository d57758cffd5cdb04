import { Buffer } from 'node:buffer'
import type { Changes } from '../../access/invalidation/committed-change.ts'
import { audit } from '../../audit/audit.ts'
import { Fault } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { RecordSecurityEvent } from '../../http/security-events.ts'
import { allInOrder } from '../../kit/async.ts'
import { decodeBase64url, encodeBase64url } from '../../kit/base64url.ts'
import type { Deadline } from '../../kit/deadline.ts'
import type { Limits } from '../../limits/limits.ts'
import { sha256 } from '../../platform/secrets.ts'
import type { SignInResponse } from '../model.ts'
import type { Device } from '../session-opening.ts'
import type { Sessions } from '../sessions.ts'
import type { SignInProtection } from '../sign-in-protection.ts'
import { type Source, toSource } from '../sign-in-rules.ts'
import type { IdentityStore, UserRow } from '../store.ts'
import { type Challenges, challengeTtlMs } from './challenges.ts'
import type { SecondFactorRequired } from './model.ts'
import { bindingOf, type PresentedFactor, type Proof, type Proofs, requireOneFactor } from './proofs.ts'

type Dependencies = {
  store: Pick<IdentityStore, 'findUser' | 'lockAccountForNoKeyUpdate'>
  challenges: Challenges
  proofs: Proofs
  changes: Changes
  sessions: Pick<Sessions, 'openAnother'>
  protection: Pick<SignInProtection, 'admitFactor' | 'verify' | 'clear' | 'noticeNewDevice'>
  limits: Pick<Limits, 'authenticationTo'>
  record: RecordSecurityEvent
}

/** The first factor was right, from this source. */
export type FirstStep = { readonly source: Source; readonly knownToken: Uint8Array | undefined }

/** Ends the sign-in when the password changes. The hash itself is not sealed into a token. */
const passwordMark = ({ password_hash }: UserRow): string =>
  encodeBase64url(sha256(Buffer.from(password_hash ?? '')).subarray(0, 16))

/**
 * The second step of a sign-in to an account with a second factor.
 *
 * Guarantee: no session is opened without both. The token of the first step is good for one session, for five minutes, and ends
 * with a change of the password. Wrong factors are counted by the source of the first step, before they are verified, and pause it
 * as wrong passwords do; so of many guesses at once no more than ten are verified.
 */
export const createSecondStep = (dependencies: Dependencies) => {
  const { store, challenges, proofs, changes, sessions, protection, limits, record } = dependencies
  const expired = () =>
    new Fault('identity.sign_in_expired', { extensions: { max_age_seconds: challengeTtlMs / 1_000 } })

  return {
    /** What the first step answers instead of tokens. */
    begin: async (
      deadline: Deadline,
      user: UserRow,
      { source, knownToken }: FirstStep,
    ): Promise<SecondFactorRequired> => {
      const token = encodeBase64url(
        challenges.issue('sign-in', {
          user: user.id,
          password: passwordMark(user),
          source: source.name,
          device: knownToken === undefined ? '' : encodeBase64url(knownToken),
        }),
      )
      const use = { purpose: 'passkey-second-factor', boundTo: bindingOf(token) } as const
      return {
        sign_in_token: token,
        expires_in: challengeTtlMs / 1_000,
        ...(await proofs.offer(deadline, user, use)),
      }
    },

    /** Throws `identity.sign_in_expired`, `identity.second_factor_wrong` and `identity.sign_in_paused`. */
    complete: async (
      context: RequestContext,
      { sign_in_token: token, ...presented }: { sign_in_token: string } & PresentedFactor,
      device: Device,
    ): Promise<SignInResponse> => {
      requireOneFactor(presented)
      const { deadline } = context
      const begun = challenges.open('sign-in', token)
      const user = begun && (await store.findUser(deadline, begun['user'] ?? ''))
      if (begun === undefined || user?.status !== 'active' || passwordMark(user) !== begun['password']) throw expired()
      const source = toSource(begun['source'] ?? '')
      const { address } = device
      const attempt = await protection.admitFactor(
        deadline,
        user,
        { source, failure: 'sign_in.second_factor_failed' },
        device,
      )
      const counted = await limits.authenticationTo(context, { account: attempt.turnKey, address: context.limitedAs })
      const use = { purpose: 'passkey-second-factor', boundTo: bindingOf(token), address } as const
      const found: { proof?: Proof | undefined } = {}
      const isRight = async () => {
        found.proof = await proofs.check(deadline, user.id, presented, use)
        return found.proof !== undefined
      }
      const wrong = () => {
        counted.failed()
        return new Fault('identity.second_factor_wrong')
      }
      if (!(await protection.verify(context, attempt, isRight)) || found.proof === undefined) throw wrong()
      const { method, accept } = found.proof
      const opened = await changes.commitAndInvalidate(
        deadline,
        async (tx) => {
          const isUnchanged = await store.lockAccountForNoKeyUpdate(tx, user.id, user.password_hash, true)
          if (!isUnchanged || !(await challenges.use(tx, token))) throw expired()
          if (!(await accept(tx))) throw wrong()
          const [another] = await allInOrder([
            () =>
              sessions.openAnother(tx, user, device, begun['device'] ? decodeBase64url(begun['device']) : undefined),
            () => protection.clear(tx, attempt),
            () => protection.noticeNewDevice(tx, { source, userId: user.id, device }),
          ])
          audit.record(tx, {
            action: 'sign_in.succeeded',
            actor: { userId: user.id, sessionId: another.sessionId },
            target: { type: 'session', id: another.sessionId },
            after: { source: source.kind, second_factor: method, replaced_session_id: another.replacedSessionId },
            context,
          })
          return another
        },
        { grantsOnly: true },
      )
      const { sessionId: session_id, replacedSessionId } = opened
      const known = { address, user_id: user.id, source: source.kind }
      record(context, 'sign_in.succeeded', { ...known, session_id, second_factor: method })
      if (replacedSessionId !== undefined)
        record(context, 'session.replaced', { address, user_id: user.id, session_id: replacedSessionId })
      return opened.respond()
    },
  }
}

export type SecondStep = ReturnType<typeof createSecondStep>
