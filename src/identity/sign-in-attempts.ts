import { Fault } from '../fault.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { RecordSecurityEvent, SecurityEvent } from '../http/security-events.ts'
import { allInOrder } from '../kit/async.ts'
import { encodeBase64url } from '../kit/base64url.ts'
import type { Clock } from '../kit/clock.ts'
import { createTtlMap } from '../kit/ttl-map.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import type { Device } from './session-opening.ts'
import type { Source } from './sign-in-rules.ts'
import type { SignInStore } from './sign-in-store.ts'

const maxRememberedPauses = 10_000
/** No attempt waits this long for its turn. */
const waitMs = 120_000

/** An attempt that may be verified. */
export type Attempt = {
  readonly accountHash: Uint8Array
  readonly source: Source
  /** Owner of the account. Undefined for an unknown address. */
  readonly userId: string | undefined
  /** Whose turn it is; attempts of known devices do not wait behind others on the account. */
  readonly turnKey: string
  readonly hasFailures: boolean
  readonly mustClaim: boolean
  readonly device: Device
  /** What the log calls its failure. */
  readonly failure: SecurityEvent
  /** Of the attempts of this instance, in the order in which their counts were read. */
  readonly number: number
}

export const paused = (untilMs: number, nowMs: number): Fault => {
  const seconds = Math.max(1, Math.ceil((untilMs - nowMs) / 1_000))
  return new Fault('identity.sign_in_paused', {
    extensions: { retry_after_seconds: seconds },
    headers: { 'retry-after': String(seconds) },
  })
}

/** Verifies admitted attempts, and counts those that fail. */
export const createSignInAttempts = ({
  store,
  clock,
  record,
}: {
  store: SignInStore
  clock: Clock
  record: RecordSecurityEvent
}) => {
  /** Pauses that began here: attempts that were admitted before wait for their turn. */
  const begun = createTtlMap<{ untilMs: number; afterNumber: number }>({
    clock,
    maxEntries: maxRememberedPauses,
    ttlMs: waitMs,
    jitter: 0,
  })
  let latestNumber = 0
  const keyOf = ({ accountHash, source }: Pick<Attempt, 'accountHash' | 'source'>) =>
    `${encodeBase64url(accountHash)} ${source.name}`

  /** Names the account by a hash: an unknown address has no id, and a user may have typed the password in its place. */
  const fieldsOf = ({ accountHash, source, userId, device: { address } }: Attempt) => ({
    address,
    user_id: userId ?? null,
    account: encodeBase64url(accountHash).slice(0, 16),
    source: source.kind,
  })

  const noticeOf = ({ userId, device: { address } }: Attempt) =>
    userId === undefined ? undefined : ({ userId, kind: 'sign_in_failures', details: { address } } as const)

  const count = async (context: RequestContext, attempt: Attempt, unlessPaused: boolean) => {
    const { accountHash, source } = attempt
    const at = new Date(clock.now())
    const counted = { accountHash, source: source.name, at, notice: noticeOf(attempt) }
    const result = await store.count(context.deadline, counted, { unlessPaused })
    if (result === undefined || result.pausedUntilMs === null) return result
    begun.set(keyOf(attempt), { untilMs: result.pausedUntilMs, afterNumber: latestNumber })
    const { failures, pausedUntilMs } = result
    record(context, 'sign_in.paused', {
      ...fieldsOf(attempt),
      failures,
      paused_until: new Date(pausedUntilMs).toISOString(),
    })
    return result
  }

  /** Failures of the source are counted anew. For an attempt that was right. */
  const clear = async (tx: TransactionSql, { accountHash, source, hasFailures }: Attempt): Promise<void> => {
    if (hasFailures) await store.clear(tx, accountHash, source.name)
  }

  /** Tells the owner of a sign-in from a source that is not known. */
  const noticeNewDevice = async (
    tx: TransactionSql,
    { source, userId, device }: Pick<Attempt, 'source' | 'userId' | 'device'>,
  ): Promise<void> => {
    if (source.kind !== 'unknown' || userId === undefined) return
    const details = { address: device.address, user_agent: device.userAgent }
    await store.addNotice(tx, { userId, kind: 'new_device', details }, new Date(clock.now()))
  }

  return {
    /** Call it before the counts of an attempt are read. */
    nextNumber: (): number => {
      latestNumber += 1
      return latestNumber
    },

    /**
     * Verifies, and counts a failure, when the turn of the attempt has come. Throws `identity.sign_in_paused` where a pause has
     * begun meanwhile. Costs a statement for a failure, and one after a pause.
     */
    verify: async (context: RequestContext, attempt: Attempt, isRight: () => Promise<boolean>): Promise<boolean> => {
      const later = begun.get(keyOf(attempt))
      if (later.kind === 'hit' && attempt.number <= later.value.afterNumber)
        throw paused(later.value.untilMs, clock.now())
      if (attempt.mustClaim && (await count(context, attempt, true)) === undefined) {
        // Another attempt was first.
        const { accountHash, source } = attempt
        const latest = await store.findCount(context.deadline, accountHash, source.name)
        throw paused(latest?.pausedUntilMs ?? 0, clock.now())
      }
      const right = await isRight()
      if (right) return true
      record(context, attempt.failure, fieldsOf(attempt))
      if (!attempt.mustClaim) await count(context, attempt, false)
      return false
    },

    clear,
    noticeNewDevice,

    /** In the transaction that the attempt was made for. The owner gets notice of a new device. */
    succeed: async (tx: TransactionSql, attempt: Attempt): Promise<void> => {
      await allInOrder([() => clear(tx, attempt), () => noticeNewDevice(tx, attempt)])
    },
  }
}
