import type { Changes } from '../access/invalidation/committed-change.ts'
import type { Caller } from '../access/principal.ts'
import { audit } from '../audit/audit.ts'
import { Fault } from '../fault.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { RecordSecurityEvent } from '../http/security-events.ts'
import type { Clock } from '../kit/clock.ts'
import type { Limits } from '../limits/limits.ts'
import {
  bindingOf,
  hasFactor,
  type PresentedFactor,
  type Proof,
  type Proofs,
  requireOneFactor,
} from './factors/proofs.ts'
import type { TokenResponse } from './model.ts'
import type { OwnPassword } from './own-password.ts'
import type { Device } from './session-opening.ts'
import type { Sessions } from './sessions.ts'
import type { Attempt } from './sign-in-attempts.ts'
import type { SignInProtection } from './sign-in-protection.ts'
import { sessionSource } from './sign-in-rules.ts'
import type { IdentityStore, UserRow } from './store.ts'

type Dependencies = {
  store: Pick<IdentityStore, 'findUser' | 'lockAccountForNoKeyUpdate' | 'endSession'>
  changes: Changes
  ownPassword: OwnPassword
  proofs: Proofs
  sessions: Pick<Sessions, 'reopen'>
  protection: Pick<SignInProtection, 'admitFactor' | 'verify' | 'clear'>
  limits: Pick<Limits, 'authenticationTo'>
  clock: Clock
  record: RecordSecurityEvent
}

const failure = 'session.not_reauthenticated'
const useOf = ({ sessionId }: Caller) =>
  ({ purpose: 'passkey-reauthentication', boundTo: bindingOf(sessionId) }) as const

/**
 * Proves again who uses a session, as sensitive changes require (`requireRecentAuthentication`). It takes what a sign-in takes: the
 * password, with a second factor where the account has one; or a passkey.
 *
 * Guarantee: a new session takes the place of the old one, whose tokens are refused from then on. Throws `identity.password_wrong`,
 * `identity.second_factor_missing`, `identity.second_factor_wrong` and `identity.sign_in_paused`; failures are counted by session.
 */
export const createReauthentication = (dependencies: Dependencies) => {
  const { store, changes, ownPassword, proofs, sessions, protection, limits, clock, record } = dependencies

  const requireUser = async (context: RequestContext, { userId }: Caller): Promise<UserRow> => {
    const user = await store.findUser(context.deadline, userId)
    if (user?.status !== 'active') throw new Fault('identity.not_signed_in')
    return user
  }

  const verifyFactor = async (
    context: RequestContext,
    caller: Caller,
    user: UserRow,
    presented: PresentedFactor,
    device: Device,
  ): Promise<{ proof: Proof; attempt: Attempt }> => {
    requireOneFactor(presented)
    const { deadline } = context
    const source = sessionSource(caller.sessionId)
    const attempt = await protection.admitFactor(deadline, user, { source, failure }, device)
    const counted = await limits.authenticationTo(context, { account: attempt.turnKey, address: context.limitedAs })
    const found: { proof?: Proof | undefined } = {}
    const isRight = async () => {
      found.proof = await proofs.check(deadline, user.id, presented, { ...useOf(caller), address: device.address })
      return found.proof !== undefined
    }
    if ((await protection.verify(context, attempt, isRight)) && found.proof !== undefined)
      return { proof: found.proof, attempt }
    counted.failed()
    throw new Fault('identity.second_factor_wrong')
  }

  return {
    /** What the caller can authenticate again with. */
    options: async (context: RequestContext, caller: Caller) => {
      const user = await requireUser(context, caller)
      const offered = await proofs.offer(context.deadline, user, useOf(caller))
      return { password: user.password_hash !== null, second_factor: user.second_factor, ...offered }
    },

    reauthenticate: async (
      context: RequestContext,
      caller: Caller,
      { password, ...presented }: { password?: string | undefined } & PresentedFactor,
      device: Device,
    ): Promise<TokenResponse> => {
      const user = await requireUser(context, caller)
      if (password === undefined && presented.passkey === undefined) throw new Fault('identity.password_missing')
      if (user.second_factor && !hasFactor(presented)) throw new Fault('identity.second_factor_missing')
      const known = { sessionId: caller.sessionId, password: password ?? '', failure } as const
      const right =
        password === undefined ? undefined : await ownPassword(context, user, known, device, async () => undefined)
      const factor = hasFactor(presented) ? await verifyFactor(context, caller, user, presented, device) : undefined
      const reopened = await changes.commitAndInvalidate(context.deadline, async (tx) => {
        const hash = right?.hash ?? user.password_hash
        if (!(await store.lockAccountForNoKeyUpdate(tx, user.id, hash, user.second_factor)))
          throw new Fault('identity.password_wrong')
        if (factor !== undefined && !(await factor.proof.accept(tx))) throw new Fault('identity.second_factor_wrong')
        for (const attempt of [right?.attempt, factor?.attempt])
          if (attempt !== undefined) await protection.clear(tx, attempt)
        const isLive = await store.endSession(tx, user.id, caller.sessionId, 'replaced', new Date(clock.now()))
        if (!isLive) throw new Fault('identity.not_signed_in')
        const opened = await sessions.reopen(tx, user, device, caller.sessionId)
        audit.record(tx, {
          action: 'session.reauthenticated',
          actor: caller,
          target: { type: 'session', id: opened.sessionId },
          after: { replaced_session_id: caller.sessionId },
          context,
        })
        return opened
      })
      const { address } = device
      record(context, 'session.reauthenticated', { address, user_id: user.id, session_id: reopened.sessionId })
      return reopened.respond()
    },
  }
}

export type Reauthentication = ReturnType<typeof createReauthentication>
