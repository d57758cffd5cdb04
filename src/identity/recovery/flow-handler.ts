import type { Changes } from '../../access/invalidation/committed-change.ts'
import { audit } from '../../audit/audit.ts'
import { taskContext } from '../../audit/event.ts'
import { Fault } from '../../fault.ts'
import type { AuditSource, RequestContext } from '../../http/request-context.ts'
import type { RecordSecurityEvent } from '../../http/security-events.ts'
import type { StartDeadline } from '../../kit/deadline.ts'
import { storedSpellings } from '../../kit/email.ts'
import { newId } from '../../kit/id.ts'
import { isHopeless, type Mail, type Payloads } from '../../mail/service.ts'
import { type LeasedTask, retryFor, type TaskHandler } from '../../outbound/runner.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import type { AccountLifecycle } from '../accounts.ts'
import type { OneTimeTokens } from '../one-time-tokens.ts'
import type { IdentityStore, UserRow } from '../store.ts'
import { tokenLife } from './purposes.ts'
import type { FlowRequest } from './requests.ts'
import type { RecoveryStore } from './store.ts'

/** Each attempt is one short transaction. */
const attemptMs = 10_000
const retry = retryFor({ firstMs: 1_000, longestMs: 60_000, totalMs: 3_600_000 })

type Registration = Extract<FlowRequest, { flow: 'registration' }>
type Linked = 'verify_email' | 'password_reset' | 'email_change'

/**
 * Carries out the requests of `FlowRequests`: finds the account, makes the token and enqueues the mail, in one transaction.
 *
 * Guarantee: each request has its effect exactly once, because its task is deleted in the same transaction. An address without an
 * active account gets no mail. A registration of an address that has an account changes nothing and tells the owner.
 */
export const createFlowHandler = ({
  store,
  identityStore,
  tokens,
  mail,
  payloads,
  changes,
  startDeadline,
  registered,
  record,
  auditSource,
}: {
  store: RecoveryStore
  identityStore: Pick<IdentityStore, 'requireRegistrations' | 'insertUser'>
  tokens: Pick<OneTimeTokens, 'issue'>
  mail: Mail
  payloads: Payloads
  changes: Changes
  startDeadline: StartDeadline
  registered: AccountLifecycle['registered']
  record: RecordSecurityEvent
  auditSource: AuditSource
}): TaskHandler => {
  const issue = async (tx: TransactionSql, purpose: Linked, userId: string, email: string) => {
    const { token, expiresAt } = await tokens.issue(tx, purpose, userId, tokenLife[purpose], { email })
    return { link: mail.linkOf(purpose, token), notAfter: expiresAt }
  }

  const sendVerification = async (tx: TransactionSql, user: Pick<UserRow, 'id'>, email: string): Promise<void> => {
    const { link, notAfter } = await issue(tx, 'verify_email', user.id, email)
    const parameters = { link, hours: tokenLife.verify_email / 3_600_000 }
    await mail.enqueue(tx, { template: 'verify_email', parameters, to: { email, userId: user.id }, notAfter })
  }

  const verify = async (tx: TransactionSql, email: string): Promise<void> => {
    const user = await store.lockAccountOf(tx, storedSpellings(email))
    if (user?.status !== 'active' || user.email === null || user.email_verified_at !== null) return
    await sendVerification(tx, user, user.email)
  }

  const reset = async (tx: TransactionSql, email: string): Promise<void> => {
    const user = await store.lockAccountOf(tx, storedSpellings(email))
    if (user?.status !== 'active' || user.email === null) return
    const { link, notAfter } = await issue(tx, 'password_reset', user.id, user.email)
    const parameters = { link, minutes: tokenLife.password_reset / 60_000 }
    await mail.enqueue(tx, {
      template: 'password_reset',
      parameters,
      to: { email: user.email, userId: user.id },
      notAfter,
    })
  }

  const changeEmail = async (tx: TransactionSql, userId: string, email: string): Promise<void> => {
    const user = await store.lockAccount(tx, userId)
    if (user?.status !== 'active' || user.email === email) return
    const holder = await store.findHolder(tx, storedSpellings(email))
    if (holder !== undefined && holder.id !== userId) {
      await mail.enqueue(tx, { template: 'email_taken', parameters: {}, to: { userId: holder.id } })
      return
    }
    const { link, notAfter } = await issue(tx, 'email_change', userId, email)
    const parameters = { link, hours: tokenLife.email_change / 3_600_000 }
    await mail.enqueue(tx, { template: 'email_change', parameters, to: { email, userId }, notAfter })
  }

  /** The id of the new account; undefined where the address has one. */
  const registerNew = async (tx: TransactionSql, request: Registration): Promise<string | undefined> => {
    const { email, displayName, passwordHash, address } = request
    await identityStore.requireRegistrations(tx)
    const owner = await store.findHolder(tx, storedSpellings(email))
    if (owner !== undefined) {
      await mail.enqueue(tx, { template: 'registration_repeated', parameters: {}, to: { userId: owner.id } })
      return undefined
    }
    const user = await identityStore.insertUser(tx, { id: newId(), email, displayName, passwordHash })
    audit.record(tx, {
      action: 'account.registered',
      actor: { userId: user.id },
      target: { type: 'user', id: user.id },
      address,
      context: taskContext(auditSource, request.requestId),
    })
    await registered(tx, { userId: user.id, email, address })
    await sendVerification(tx, user, email)
    return user.id
  }

  const carryOut = async (tx: TransactionSql, request: FlowRequest): Promise<string | undefined> => {
    switch (request.flow) {
      case 'verify_email':
        await verify(tx, request.email)
        return undefined
      case 'password_reset':
        await reset(tx, request.email)
        return undefined
      case 'email_change':
        await changeEmail(tx, request.userId, request.email)
        return undefined
      case 'registration':
        return registerNew(tx, request)
    }
  }

  const runOnce = (task: LeasedTask, request: FlowRequest): Promise<string | undefined> =>
    changes.commitAndInvalidate(
      startDeadline(attemptMs),
      async (tx) => {
        const made = await carryOut(tx, request)
        await task.complete(tx)
        return made
      },
      { grantsOnly: true },
    )

  const isTaken = (error: unknown): boolean => error instanceof Fault && error.code === 'identity.email_taken'

  return {
    concurrency: 4,
    timeLimitMs: 2 * attemptMs,
    run: async (task) => {
      const request = payloads.open(task.payload) as FlowRequest
      const made = await runOnce(task, request).catch((error) => {
        // Of two registrations of one address at the same moment the second finds the account of the first now.
        if (isTaken(error)) return runOnce(task, request)
        throw error
      })
      if (request.flow !== 'registration' || made === undefined) return
      const context: Pick<RequestContext, 'requestId'> = { requestId: request.requestId }
      record(context, 'account.registered', { address: request.address, user_id: made })
    },
    retryInMs: (failure) => (isHopeless(failure.error) || isTaken(failure.error) ? undefined : retry(failure)),
  }
}
