import { Fault } from '../fault.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { SecurityEvent } from '../http/security-events.ts'
import type { Limits } from '../limits/limits.ts'
import type { Hashing, Passwords } from './passwords.ts'
import type { Device } from './session-opening.ts'
import type { Attempt } from './sign-in-attempts.ts'
import type { SignInProtection } from './sign-in-protection.ts'
import type { UserRow } from './store.ts'

type Dependencies = {
  passwords: Pick<Passwords, 'inTurn'>
  protection: Pick<SignInProtection, 'admitSession' | 'verify'>
  limits: Pick<Limits, 'authenticationTo'>
}

/** A password that was right. `hash` is the one that it was compared with. */
type RightPassword<T> = { readonly hash: string; readonly attempt: Attempt; readonly result: T }

/**
 * Verifies the password of a signed-in person, and then does `work` in the same turn. Throws `identity.password_wrong`, which is
 * counted by session, and `identity.sign_in_paused`. The caller must compare `hash` again in its transaction.
 */
export const createOwnPassword =
  ({ passwords, protection, limits }: Dependencies) =>
  async <T>(
    context: RequestContext,
    user: UserRow,
    presented: { readonly sessionId: string; readonly password: string; readonly failure: SecurityEvent },
    device: Device,
    work: (hashing: Hashing) => Promise<T>,
  ): Promise<RightPassword<T>> => {
    const { sessionId, password, failure } = presented
    const hash = user.password_hash ?? undefined
    const attempt = await protection.admitSession(context.deadline, user, { sessionId, failure }, device)
    const counted = await limits.authenticationTo(context, { account: attempt.turnKey, address: context.limitedAs })
    const requester = { address: device.address, account: attempt.turnKey }
    const done = await passwords.inTurn(requester, context.deadline, async (hashing) => {
      const isRight = () => hashing.verify(password, hash)
      return (await protection.verify(context, attempt, isRight)) ? { result: await work(hashing) } : undefined
    })
    if (done === undefined || hash === undefined) {
      counted.failed()
      throw new Fault('identity.password_wrong')
    }
    return { hash, attempt, result: done.result }
  }

export type OwnPassword = ReturnType<typeof createOwnPassword>
