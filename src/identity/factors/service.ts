import type { Changes } from '../../access/invalidation/committed-change.ts'
import type { RecordSecurityEvent } from '../../http/security-events.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Limits } from '../../limits/limits.ts'
import type { Secrets } from '../../platform/secrets.ts'
import type { Webauthn } from '../../platform/webauthn.ts'
import type { OwnPassword } from '../own-password.ts'
import { createReauthentication } from '../reauthentication.ts'
import type { Sessions } from '../sessions.ts'
import type { SignInProtection } from '../sign-in-protection.ts'
import type { IdentityStore } from '../store.ts'
import type { Operators } from '../users/operators.ts'
import type { WayInStore } from '../way-in-store.ts'
import { createChallenges } from './challenges.ts'
import { createEnrolment } from './enrolment.ts'
import type { FactorNotices } from './factor-notices.ts'
import { createPasskeySignIn } from './passkey-sign-in.ts'
import { createProofs } from './proofs.ts'
import { createSecondStep } from './second-step.ts'
import type { FactorStore } from './store.ts'

export type FactorDependencies = {
  factorStore: FactorStore
  waysIn: WayInStore
  operators: Operators
  secrets: Secrets
  /** Undefined: no domain is configured for passkeys. */
  webauthn: Webauthn | undefined
  /** Shown by authenticator apps. */
  issuer: string
}

type Dependencies = FactorDependencies & {
  store: IdentityStore
  notices: FactorNotices
  ownPassword: OwnPassword
  sessions: Sessions
  protection: SignInProtection
  changes: Changes
  clock: Clock
  record: RecordSecurityEvent
  limits: Pick<Limits, 'authenticationTo'>
  requireVerifiedEmail: boolean
  /** Whether the owner of an account can verify its e-mail address. */
  sendsMail: boolean
}

/** Second factors, passkeys and authenticating again. */
export const createFactors = (dependencies: Dependencies) => {
  const { store, factorStore, secrets, clock } = dependencies
  const challenges = createChallenges({ secrets, store: factorStore, clock })
  const proofs = createProofs({ ...dependencies, store: factorStore, challenges })
  const shared = { ...dependencies, challenges, proofs }
  return {
    secondStep: createSecondStep(shared),
    passkeySignIn: createPasskeySignIn({ ...shared, store: factorStore, accounts: store }),
    reauthentication: createReauthentication(shared),
    factors: createEnrolment({ ...shared, store: factorStore, users: store }),
    /** Deletes up to 10,000 used challenges that do not open any more. */
    purgeChallenges: () => factorStore.purgeChallenges(new Date(clock.now())),
  }
}
