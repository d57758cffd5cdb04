import { accessCheckPollMs, createAccessRepair } from '../../access/cache/effective-access-check.ts'
import { createEffectiveAccessStore } from '../../access/cache/effective-access-store.ts'
import { staleCheckMs } from '../../access/cache/stale-detector.ts'
import { queueMeasureMs } from '../../access/invalidation/notification-queue.ts'
import { frequencyFlushMs } from '../../access/warm-up/access-frequency.ts'
import { createViewStore } from '../../access/warm-up/materialized-view-store.ts'
import { createViewRefresh, viewCheckMs } from '../../access/warm-up/materialized-views.ts'
import { chainMs } from '../../audit/chainer.ts'
import { maintenanceMs } from '../../audit/maintenance.ts'
import { sinkMs } from '../../audit/sink.ts'
import { policyPollMs } from '../../breakers/service.ts'
import { erasureMs } from '../../identity/erasure/erasure.ts'
import { noticePollMs } from '../../identity/notices.ts'
import { tokenUseFlushMs } from '../../identity/token-uses.ts'
import { incidentFlushMs } from '../../incidents/reports.ts'
import type { Admissions } from '../../kit/admitted-deadline.ts'
import { createDeadlines } from '../../kit/deadline.ts'
import { createUsageRecount, usagePollMs } from '../../limits/usage-recount.ts'
import { createUsageStore } from '../../limits/usage-store.ts'
import { alertMs } from '../../monitoring/alerts/service.ts'
import { publishMs } from '../../monitoring/exchange.ts'
import type { Log } from '../../platform/log.ts'
import { createResealing, resealMs } from '../../secrets/resealing.ts'
import { flushMs } from '../../service-keys/usage.ts'
import type { AccessParts } from './access.ts'
import type { Features } from './features.ts'
import type { Infrastructure } from './infrastructure.ts'

const keyRefreshMs = 60_000
const clockMs = 60_000
const purgeMs = 3_600_000
const sweepMs = 600_000
const shedReportMs = 10_000
const closeMinutesMs = 5_000
/** Tasks that run often would fill the log while Postgres is down. */
const failureLogMs = 10_000
const expiryPollMs = 1_000
/** Tasks of equal intervals run apart from each other: at the same moment each would open a connection. */
const longestLeadMs = 5_000

/** One line for all the requests that were refused since the last one; they are not logged one by one. */
const createShedReport = (admissions: Admissions, log: Log) => {
  const countAll = () => ({
    statements: admissions.statements.shed,
    batches: admissions.batches.shed,
    changes: admissions.changes.shed,
  })
  let last = countAll()
  return async () => {
    const now = countAll()
    const refused = {
      statements: now.statements - last.statements,
      batches: now.batches - last.batches,
      changes: now.changes - last.changes,
    }
    last = now
    if (refused.statements + refused.batches + refused.changes === 0) return
    log.warn(
      { event: 'admission.shed', ...refused },
      'requests were refused because Postgres has more work than it can do',
    )
  }
}

type BackgroundTask = { readonly name: string; readonly intervalMs: number; readonly run: () => Promise<unknown> }

/**
 * Last step: the work that no request waits for, each task at its interval. A task that fails is logged and runs again after
 * the next interval.
 */
export const startBackgroundTasks = (
  {
    database,
    admissions,
    migrations,
    clock,
    isSystemClock,
    realClock,
    keys,
    secrets,
    secretStore,
    incidentStore,
    incidentReports,
    auditSink,
    log,
  }: Infrastructure,
  { caches, notificationQueue, accessFrequency, frequencyStore, keyUsage }: AccessParts,
  {
    identity,
    identityProviders,
    idempotency,
    welcome,
    shareLinks,
    cancellations,
    mediaStorage,
    outbound,
    mail,
    oneTimeTokens,
    sendNotices,
    purgeFormerAddresses,
    streamTickets,
    webhookSender,
    breakerService,
    flagStore,
    monitoring,
    alerts,
    measure,
    chainer,
    maintainAudit,
    restrictions,
  }: Features,
  stack: AsyncDisposableStack,
): void => {
  const accessRepair = createAccessRepair({
    store: createEffectiveAccessStore(database.batch, migrations),
    changes: caches.changes,
    startDeadline: createDeadlines(realClock),
    clock: realClock,
    log,
  })
  const usageRecount = createUsageRecount({ store: createUsageStore(database.batch), clock: realClock, log })
  const reportShed = createShedReport(admissions, log)
  const refreshViews = createViewRefresh({ store: createViewStore(database.batch), frequencies: frequencyStore })
  const reseal = createResealing({ store: secretStore, secrets, log })
  const resealing = { name: 'seal values under SECRET', intervalMs: resealMs, run: reseal }
  const readPolicies = { name: 'read policies of breakers', intervalMs: policyPollMs, run: breakerService.reload }
  const partitions = { name: 'maintain partitions of the audit log', intervalMs: maintenanceMs, run: maintainAudit }
  const tasks: readonly BackgroundTask[] = [
    { name: 'report requests refused under load', intervalMs: shedReportMs, run: reportShed },
    resealing,
    readPolicies,
    { name: 'measure the queue for notifications', intervalMs: queueMeasureMs, run: notificationQueue.measure },
    { name: 'measure this instance', intervalMs: publishMs, run: measure },
    { name: 'evaluate alerts', intervalMs: alertMs, run: alerts.evaluate },
    { name: 'purge cleared alerts', intervalMs: purgeMs, run: alerts.purge },
    { name: 'measure queues of work', intervalMs: queueMeasureMs, run: monitoring.measureQueues },
    { name: 'refresh signing keys', intervalMs: keyRefreshMs, run: keys.refresh },
    ...(isSystemClock
      ? [{ name: 'compare the clock', intervalMs: clockMs, run: () => clock.synchronize(database.batch) }]
      : []),
    { name: 'record first uses of access tokens', intervalMs: tokenUseFlushMs, run: identity.recordTokenUses },
    { name: 'end expired modes and blocks', intervalMs: expiryPollMs, run: restrictions.endExpired },
    { name: 'purge sessions', intervalMs: purgeMs, run: identity.purgeSessions },
    { name: 'purge failed sign-ins, devices and notices', intervalMs: purgeMs, run: identity.purgeSignIns },
    { name: 'erase closed accounts', intervalMs: erasureMs, run: identity.erasePending },
    { name: 'purge one-time tokens', intervalMs: purgeMs, run: oneTimeTokens.purge },
    { name: 'purge former e-mail addresses', intervalMs: purgeMs, run: purgeFormerAddresses },
    { name: 'send notices', intervalMs: noticePollMs, run: sendNotices },
    { name: 'purge counts of mails', intervalMs: purgeMs, run: mail.purge },
    { name: 'purge returns from identity providers', intervalMs: purgeMs, run: identityProviders.purge },
    { name: 'purge used stream tickets', intervalMs: purgeMs, run: streamTickets.purge },
    { name: 'purge used challenges', intervalMs: purgeMs, run: identity.purgeChallenges },
    { name: 'purge idempotency keys', intervalMs: purgeMs, run: idempotency.purge },
    { name: 'purge records of welcome credits', intervalMs: purgeMs, run: welcome.purge },
    { name: 'purge share links', intervalMs: purgeMs, run: shareLinks.purge },
    { name: 'purge webhook events', intervalMs: purgeMs, run: webhookSender.purge },
    { name: 'store reports of incidents', intervalMs: incidentFlushMs, run: incidentReports.flush },
    { name: 'purge versions of removed feature flags', intervalMs: purgeMs, run: flagStore.purge },
    { name: 'purge closed incidents', intervalMs: purgeMs, run: incidentStore.purge },
    { name: 'purge cancellations', intervalMs: purgeMs, run: cancellations.purge },
    { name: 'store usage of service keys', intervalMs: flushMs, run: keyUsage.flush },
    { name: 'check effective access', intervalMs: accessCheckPollMs, run: accessRepair.poll },
    { name: 'recount usage of accounts', intervalMs: usagePollMs, run: usageRecount.poll },
    { name: 'compare memory with Postgres', intervalMs: staleCheckMs, run: caches.staleDetector.run },
    { name: 'store access frequencies', intervalMs: frequencyFlushMs, run: accessFrequency.flush },
    { name: 'sweep orphaned media objects', intervalMs: sweepMs, run: mediaStorage.sweep },
    { name: 'write audit events', intervalMs: sinkMs, run: auditSink.flush },
    { name: 'record denied decisions', intervalMs: closeMinutesMs, run: auditSink.closeMinutes },
    { name: 'link audit events', intervalMs: chainMs, run: chainer.poll },
    partitions,
    { name: 'refresh materialized views', intervalMs: viewCheckMs, run: refreshViews },
  ]
  outbound.start()
  /** When the failure of a task may be logged again. */
  const logAgainAtMs = new Map<string, number>()
  let isClosing = false
  stack.defer(() => {
    isClosing = true
  })
  const runLogged = ({ name, run }: BackgroundTask) => {
    run().catch((error) => {
      // A task under way at the shutdown loses its connection, and runs again on another instance or after the next start.
      if (isClosing) return
      if (realClock.monotonic() < (logAgainAtMs.get(name) ?? Number.NEGATIVE_INFINITY)) return
      logAgainAtMs.set(name, realClock.monotonic() + failureLogMs)
      log.warn({ task: name, error }, 'background task failed')
    })
  }
  runLogged(resealing)
  runLogged(readPolicies)
  runLogged(partitions)
  for (const [index, task] of tasks.entries()) {
    let repeated: ReturnType<typeof setInterval> | undefined
    const first = setTimeout(
      () => {
        repeated = setInterval(() => runLogged(task), task.intervalMs)
        runLogged(task)
      },
      task.intervalMs - (index / tasks.length) * Math.min(task.intervalMs / 2, longestLeadMs),
    )
    stack.defer(() => {
      clearTimeout(first)
      clearInterval(repeated)
    })
  }
}
