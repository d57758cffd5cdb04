import { commonChannel, encodeMessage } from '../../access/invalidation/topics.ts'
import { createBreakerService } from '../../breakers/service.ts'
import { createBreakerStore } from '../../breakers/store.ts'
import { createRestrictions } from '../../emergency/service.ts'
import { createRestrictionStore, notifyAll } from '../../emergency/store.ts'
import { createFlagEvaluator } from '../../flags/features/evaluator.ts'
import { createFeatureFlags } from '../../flags/features/service.ts'
import { createTierFlagService } from '../../flags/tiers/service.ts'
import { createTierFlagStore } from '../../flags/tiers/store.ts'
import { createIncidents } from '../../incidents/service.ts'
import { createDeadlines } from '../../kit/deadline.ts'
import { createLimitOperations } from '../../limits/operations.ts'
import { createLimitStore } from '../../limits/store.ts'
import { createProjects } from '../../projects/service.ts'
import { createProjectStore } from '../../projects/store.ts'
import { createServiceKeys } from '../../service-keys/service.ts'
import type { AccessParts } from './access.ts'
import { composeAccounts } from './accounts.ts'
import { composeAudit } from './audit.ts'
import { composeGenerations, composeMedia } from './generations.ts'
import type { Infrastructure } from './infrastructure.ts'
import { composeMonitoring } from './monitoring.ts'
import { composeShared } from './shared.ts'
import { composeSiem } from './siem.ts'
import { composeWebhooks } from './webhooks.ts'

/** For the transaction that ends expired modes and blocks. */
const expiryMs = 5_000

/** Third step: what the routes call. */
export const composeFeatures = (
  infrastructure: Infrastructure,
  accessParts: AccessParts,
  stack: AsyncDisposableStack,
) => {
  const { clock, database, recordSecurityEvent: record } = infrastructure
  const { caches, access, transactionalAccess, listingStore, serviceKeyStore } = accessParts
  const { changes } = caches
  const shared = composeShared(infrastructure, accessParts, stack)
  const media = composeMedia(infrastructure, accessParts, shared, stack)
  const generations = composeGenerations(infrastructure, accessParts, shared, media, stack)
  const accounts = composeAccounts(infrastructure, accessParts, shared, generations, stack)
  const { operators } = shared
  const breakerService = createBreakerService({
    breakers: infrastructure.breakers,
    ownMode: accessParts.ownMode,
    store: createBreakerStore(database.admin),
    instance: caches.bus.instance,
    operators,
    changes,
    record,
  })
  caches.onInvalidated(breakerService.onInvalidated)
  const auditParts = composeAudit(infrastructure)
  const siem = composeSiem(infrastructure, caches.bus.instance, stack)
  const restrictions = createRestrictions({
    store: createRestrictionStore(database.admin, database.batch),
    operators,
    changes,
    ownMode: accessParts.ownMode,
    liftVerdict: (tx, key) => notifyAll(tx, commonChannel, encodeMessage('limit_lifted', { budget: 'anonymous', key })),
    auditSource: infrastructure.auditSource,
    startDeadline: () => createDeadlines(infrastructure.realClock)(expiryMs),
    record,
    log: infrastructure.log,
  })
  shared.anomalies?.onBlock(restrictions.blockAnomalous)
  return {
    ...shared,
    ...media,
    ...generations,
    ...accounts,
    ...composeWebhooks(infrastructure, accessParts, operators, stack),
    ...auditParts,
    projects: createProjects({
      store: createProjectStore(database.read, listingStore),
      access,
      transactionalAccess,
      changes,
      quotas: shared.quotas,
      record,
    }),
    serviceKeys: createServiceKeys({ store: serviceKeyStore, operators, changes, clock, record }),
    breakerService,
    featureFlags: createFeatureFlags({ store: shared.flagStore, operators, changes, clock, record }),
    flagEvaluator: createFlagEvaluator({ facts: caches.facts }),
    tierFlags: createTierFlagService({ store: createTierFlagStore(database.admin), operators, changes }),
    incidents: createIncidents({ store: infrastructure.incidentStore, operators, changes, clock, record }),
    restrictions,
    limitOperations: createLimitOperations({
      limits: shared.limits,
      announceLifted: (deadline, lifted, recordIn) =>
        createLimitStore(database.admin).announce(
          deadline,
          { channel: commonChannel, payload: encodeMessage('limit_lifted', lifted) },
          recordIn,
        ),
      record,
    }),
    ...composeMonitoring(
      infrastructure,
      accessParts,
      { ...shared, ...media, ...generations, ...auditParts, siem },
      stack,
    ),
  }
}

export type Features = ReturnType<typeof composeFeatures>
