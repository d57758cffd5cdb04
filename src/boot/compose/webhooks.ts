import { defaultLeaseTiming, deriveTiming } from '../../access/invalidation/timing.ts'
import { requireSignedInForShare } from '../../access/transactional-access.ts'
import type { Operators } from '../../identity/users/operators.ts'
import { createSafePost } from '../../platform/safe-post.ts'
import { ignoredMs } from '../../platform/shared-clock.ts'
import { createTeamStore } from '../../teams/store.ts'
import { lockTeamAs, requireTeamRight } from '../../teams/team-lock.ts'
import { createAttempt } from '../../webhooks/attempt.ts'
import { createDeliveryStore } from '../../webhooks/delivery-store.ts'
import type { WebhookRights } from '../../webhooks/owned.ts'
import { createSender } from '../../webhooks/sender.ts'
import { createWebhooks } from '../../webhooks/service.ts'
import { createWebhookStore } from '../../webhooks/store.ts'
import type { AccessParts } from './access.ts'
import type { Infrastructure } from './infrastructure.ts'

/** Webhooks and what sends to them. */
export const composeWebhooks = (
  infrastructure: Infrastructure,
  { caches: { changes } }: AccessParts,
  operators: Pick<Operators, 'requireForShare'>,
  stack: AsyncDisposableStack,
) => {
  const { config, clock, log, database, secrets, recordSecurityEvent: record } = infrastructure
  const internalHosts = config.webhookInternalHosts
  const teamStore = createTeamStore(database.read, database.analytics)
  const deliveries = createDeliveryStore(database.batch)
  const sender = createSender({
    store: deliveries,
    attempt: createAttempt({
      store: deliveries,
      post: infrastructure.safePost ?? createSafePost(),
      unseal: (webhookId, sealed) => secrets.unseal('webhook-secret', sealed, webhookId),
      internalHosts,
      clock,
      log,
    }),
    settleMs: deriveTiming(infrastructure.cacheTiming?.lease ?? defaultLeaseTiming).waitMs + ignoredMs,
    clock,
    log,
  })
  stack.defer(sender.close)
  const right = 'manage_webhooks'
  const rights: WebhookRights = {
    // The routes of operators admit operators only.
    requireRead: async (context, caller, owner) => {
      if (owner !== null) requireTeamRight(await teamStore.find(context.deadline, owner, caller.userId), right)
    },
    requireChange: async (tx, caller, owner) => {
      if (owner === null) return void (await operators.requireForShare(tx, caller))
      await requireSignedInForShare(tx, caller)
      await lockTeamAs(teamStore, tx, caller, owner, right)
    },
  }
  return {
    webhookSender: sender,
    webhooks: createWebhooks({
      store: createWebhookStore(database.admin),
      rights,
      secrets: { seal: (webhookId, secret) => secrets.seal('webhook-secret', secret, webhookId) },
      changes,
      sender,
      internalHosts,
      clock,
      record,
    }),
  }
}
