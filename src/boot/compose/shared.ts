import { createAnomalyLayer } from '../../anomaly/layer.ts'
import { createCredits } from '../../credits/service.ts'
import { createCreditStore, createWelcomeStore } from '../../credits/store.ts'
import { createWelcome } from '../../credits/welcome.ts'
import { createFlagStore } from '../../flags/features/store.ts'
import { createIdempotency } from '../../idempotency/idempotency.ts'
import { createIdempotencyStore } from '../../idempotency/store.ts'
import { createAccountHash } from '../../identity/account-hash.ts'
import { createOneTimeTokenStore } from '../../identity/one-time-token-store.ts'
import { createOneTimeTokens } from '../../identity/one-time-tokens.ts'
import { createOperators } from '../../identity/users/operators.ts'
import { createUserStore } from '../../identity/users/store.ts'
import { createQuotaStore } from '../../limits/quota-store.ts'
import { createQuotas } from '../../limits/quotas.ts'
import { createMail, createPayloads } from '../../mail/service.ts'
import { createMailStore } from '../../mail/store.ts'
import { createOutboundQueue } from '../../outbound/queue.ts'
import { createOutboundStore } from '../../outbound/store.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import type { AccessParts } from './access.ts'
import { composeAnomalies } from './anomalies.ts'
import type { Infrastructure } from './infrastructure.ts'
import { composeLimits } from './limits.ts'

/** The queue of outbound work, mails, and the tokens that they carry. */
const composeMail = (
  { config, clock, log, database, secrets, keyedHash, sendMail }: Infrastructure,
  stack: AsyncDisposableStack,
) => {
  const outbound = createOutboundQueue({ store: createOutboundStore(database.batch), clock, log })
  stack.defer(outbound.close)
  const subject = 'outbound task'
  const payloads = createPayloads({
    seal: (text) => secrets.seal('mail', text, subject),
    open: (sealed) => secrets.unseal('mail', sealed, subject).toString(),
  })
  const mail = createMail({
    settings: config.mail,
    send: sendMail,
    store: createMailStore(database.batch),
    queue: outbound,
    payloads,
    hashOf: createAccountHash(keyedHash, 'sign-in-failures'),
    clock,
    log,
  })
  const oneTimeTokens = createOneTimeTokens({ store: createOneTimeTokenStore(database.batch), clock })
  return { outbound, payloads, mail, oneTimeTokens }
}

/** Used by more than one feature. */
export const composeShared = (infrastructure: Infrastructure, access: AccessParts, stack: AsyncDisposableStack) => {
  const { config, clock, log, database, keyedHash } = infrastructure
  const { changes } = access.caches
  const userStore = createUserStore(database.admin)
  const operators = createOperators(userStore)
  const anomalies = composeAnomalies(infrastructure, access, stack)
  const idempotency = createIdempotency({ store: createIdempotencyStore(database.batch), clock })
  const credits = createCredits({
    store: createCreditStore(database.read),
    operators,
    changes,
    idempotency,
  })
  const welcome = createWelcome({
    store: createWelcomeStore(database.batch),
    policy: {
      credits: config.welcomeCredits,
      after: config.welcomeAfter,
      accountsPerAddress: config.welcomeAccountsPerAddress,
    },
    grant: credits.welcome,
    hashOf: createAccountHash(keyedHash, 'welcome-credits'),
    log,
  })
  const flagStore = createFlagStore(database.admin, database.batch)
  const quotas = createQuotas({
    store: createQuotaStore(database.read),
    policy: config.policy,
    mode: config.limits,
    log,
  })
  return {
    userStore,
    operators,
    idempotency,
    credits,
    welcome,
    quotas,
    anomalies,
    anomalyFindingOf: createAnomalyLayer(anomalies),
    limits: composeLimits(infrastructure, access, anomalies, stack),
    flagStore,
    /** What operators have written about an account goes with it. */
    forgetUser: async (tx: TransactionSql, userId: string): Promise<void> => {
      await flagStore.forgetUser(tx, userId)
      await infrastructure.incidentStore.forgetUser(tx, userId)
    },
    ...composeMail(infrastructure, stack),
  }
}

export type Shared = ReturnType<typeof composeShared>
