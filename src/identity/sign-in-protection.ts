import type { RecordSecurityEvent, SecurityEvent } from '../http/security-events.ts'
import { encodeBase64url } from '../kit/base64url.ts'
import type { Clock } from '../kit/clock.ts'
import type { Deadline } from '../kit/deadline.ts'
import { createTtlMap } from '../kit/ttl-map.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import { sha256 } from '../platform/secrets.ts'
import type { AccountHash } from './account-hash.ts'
import type { DeviceTokens } from './device-tokens.ts'
import type { Device } from './session-opening.ts'
import { type Attempt, createSignInAttempts, paused } from './sign-in-attempts.ts'
import {
  decideAdmission,
  factorSource,
  networkSource,
  type Source,
  sessionSource,
  unknownSource,
} from './sign-in-rules.ts'
import { createSignInSources, isKnownNetwork } from './sign-in-sources.ts'
import type { AttemptFacts, SignInStore } from './sign-in-store.ts'
import type { UserRow } from './store.ts'

const maxRecentPauses = 10_000
const recentMs = 1_000
const dayMs = 86_400_000
/** Counts are dropped after this long without a failure. */
const forgetFailuresMs = 30 * dayMs
/** Each failure costs a hash, so that few attackers reach it. Counts with the fewest failures are dropped first. */
const maxCounts = 1_000_000
const keepNoticesMs = 30 * dayMs

/**
 * Accounts that paused for unknown devices a moment ago, with the networks known to them. So a flood of attempts on one account
 * costs Postgres one statement a second. Degrades: a pause that an operator ends goes on here for up to a second, and a
 * network becomes known as late.
 */
const createRecentPauses = (clock: Clock) => {
  const recent = createTtlMap<{ untilMs: number; networks: ReadonlySet<string> }>({
    clock,
    maxEntries: maxRecentPauses,
    ttlMs: recentMs,
    jitter: 0,
  })
  return {
    remember: (account: string, { counts, addresses }: Pick<AttemptFacts, 'counts' | 'addresses'>): void => {
      const untilMs = counts.get(unknownSource.name)?.pausedUntilMs ?? null
      if (untilMs === null) return
      recent.set(account, { untilMs, networks: new Set(addresses.map((address) => networkSource(address).name)) })
    },
    /** Throws `identity.sign_in_paused` for an unknown network while the pause lasts. */
    refuse: (account: string, network: Source, nowMs: number): void => {
      const found = recent.get(account)
      if (found.kind === 'hit' && found.value.untilMs > nowMs && !found.value.networks.has(network.name))
        throw paused(found.value.untilMs, nowMs)
    },
  }
}

/**
 * Slows the guessing of passwords down, without locking owners out.
 *
 * Guarantee: after ten consecutive failures an account pauses for attempts of unknown devices, longer after each further one;
 * see `pauseSeconds`. Over all instances one attempt is verified after each pause. While it lasts every attempt is refused
 * before it is verified, the right password as a wrong one, so the answer does not depend on it. An e-mail address
 * without an account is counted and answered as one with an account. Failures on one account refuse no sign-in to another.
 *
 * A known device, by its token or by the network of a live session of the account, is counted by itself, and let in while
 * unknown ones pause. Its success does not end that pause. A known device that fails as often is treated as unknown.
 *
 * Degrades: attempts that are verified at the same moment on several instances may exceed the ten by one for each turn there.
 */
export const createSignInProtection = ({
  store,
  hashOf,
  deviceTokens,
  clock,
  record,
}: {
  store: SignInStore
  hashOf: AccountHash
  deviceTokens: DeviceTokens
  clock: Clock
  record: RecordSecurityEvent
}) => {
  const recentPauses = createRecentPauses(clock)
  const attempts = createSignInAttempts({ store, clock, record })
  const { nextNumber, noticeNewDevice } = attempts

  const { ownToken, findSources } = createSignInSources({ store, hashOf, deviceTokens, clock })

  const admitSource = async (
    deadline: Deadline,
    user: UserRow,
    { source, failure }: { readonly source: Source; readonly failure: SecurityEvent },
    device: Device,
  ): Promise<Attempt> => {
    const accountHash = hashOf(user.email ?? '')
    const number = nextNumber()
    const found = await store.findCount(deadline, accountHash, source.name)
    const decision = decideAdmission([source], () => found, clock.now())
    if (decision.kind === 'paused') throw paused(decision.untilMs, clock.now())
    const { failures, mustClaim } = decision
    return {
      accountHash,
      source,
      userId: user.id,
      // A name of a session is of one account; others are not.
      turnKey: source.kind === 'session' ? source.name : `${encodeBase64url(accountHash)} ${source.name}`,
      hasFailures: failures > 0,
      mustClaim,
      device,
      failure,
      number,
    }
  }

  return {
    /**
     * The account of an address, the attempt on it, and the device token where it is one of the account and stays in use. Throws
     * `identity.sign_in_paused`. One statement.
     */
    admit: async (
      deadline: Deadline,
      { email, deviceToken }: { email: string; deviceToken: string | undefined },
      device: Device,
    ): Promise<{ user: UserRow | undefined; attempt: Attempt; knownToken: Uint8Array | undefined }> => {
      const accountHash = hashOf(email)
      const account = encodeBase64url(accountHash)
      const network = networkSource(device.address)
      const nowMs = clock.now()
      const { token, isCurrent } = ownToken(accountHash, deviceToken)
      if (token === undefined) recentPauses.refuse(account, network, nowMs)
      const number = nextNumber()
      const { facts, sources } = await findSources(deadline, email, token, device)
      recentPauses.remember(account, facts)
      const decision = decideAdmission(sources, ({ name }) => facts.counts.get(name), nowMs)
      if (decision.kind === 'paused') throw paused(decision.untilMs, nowMs)
      const { source, failures, mustClaim } = decision
      const attempt: Attempt = {
        accountHash,
        source,
        userId: facts.user?.id,
        turnKey: source.kind === 'unknown' ? account : `${account} ${source.name}`,
        hasFailures: failures > 0,
        mustClaim,
        device,
        failure: 'sign_in.failed',
        number,
      }
      return {
        user: facts.user,
        attempt,
        knownToken: facts.isKnownDevice && isCurrent ? token : undefined,
      }
    },

    /** Where a sign-in without a password comes from, and the device token where it is one of the account. Pauses do not count. */
    recognizeSource: async (
      deadline: Deadline,
      { email }: UserRow,
      deviceToken: string | undefined,
      device: Device,
    ): Promise<{ source: Source; knownToken: Uint8Array | undefined }> => {
      const { token, isCurrent } = ownToken(hashOf(email ?? ''), deviceToken)
      const { facts, sources } = await findSources(deadline, email ?? '', token, device)
      return { source: sources[0] ?? unknownSource, knownToken: facts.isKnownDevice && isCurrent ? token : undefined }
    },

    /** As `admit`, for the current password of a signed-in person. */
    admitSession: (
      deadline: Deadline,
      user: UserRow,
      { sessionId, failure }: { readonly sessionId: string; readonly failure: SecurityEvent },
      device: Device,
    ): Promise<Attempt> => admitSource(deadline, user, { source: sessionSource(sessionId), failure }, device),

    /**
     * As `admit`, for a second factor, counted for each source of the first one. It counts before it is verified, so that of
     * many guesses at once no more are verified than one after the other.
     */
    admitFactor: async (
      deadline: Deadline,
      user: UserRow,
      { source, failure }: { readonly source: Source; readonly failure: SecurityEvent },
      device: Device,
    ): Promise<Attempt> => ({
      ...(await admitSource(deadline, user, { source: factorSource(source), failure }, device)),
      hasFailures: true,
      mustClaim: true,
    }),

    /**
     * For a sign-in without a password, which no failures pause: the device token where it is one of the account and stays in
     * use. The owner gets notice of a new device.
     */
    recognize: async (
      tx: TransactionSql,
      user: UserRow,
      deviceToken: string | undefined,
      device: Device,
    ): Promise<Uint8Array | undefined> => {
      const { token, isCurrent } = ownToken(hashOf(user.email ?? ''), deviceToken)
      const wanted = { userId: user.id, deviceHash: token && sha256(token), now: new Date(clock.now()) }
      const { isKnownDevice, addresses } = await store.findDeviceFacts(tx, wanted)
      if (isKnownDevice) return isCurrent ? token : undefined
      const source = isKnownNetwork(device, addresses) ? networkSource(device.address) : unknownSource
      await noticeNewDevice(tx, { source, userId: user.id, device })
      return undefined
    },

    ...attempts,

    /** Closing an account erases them. */
    forgetNotices: store.deleteNotices,

    /** Forgets the failed sign-ins to the account of an address. */
    forgetAccount: (tx: TransactionSql, email: string): Promise<void> => store.clearAll(tx, hashOf(email)),
  }
}

export type SignInProtection = ReturnType<typeof createSignInProtection>

/** Deletes the counts, devices and notices that are old, and the counts that are too many. */
export const createSignInPurge =
  ({ store, clock }: { store: SignInStore; clock: Clock }) =>
  async (): Promise<void> => {
    const nowMs = clock.now()
    await store.purge({
      failedAt: new Date(nowMs - forgetFailuresMs),
      noticedAt: new Date(nowMs - keepNoticesMs),
      now: new Date(nowMs),
    })
    await store.trimFailures(maxCounts)
  }
