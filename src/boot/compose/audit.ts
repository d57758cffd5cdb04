import { createChainStore, listAuditKeys } from '../../audit/chain-store.ts'
import { createChainer } from '../../audit/chainer.ts'
import { createAuditKeys } from '../../audit/keys.ts'
import { createListStore } from '../../audit/list-store.ts'
import { createMaintenance } from '../../audit/maintenance.ts'
import { createMaintenanceStore } from '../../audit/maintenance-store.ts'
import { createAuditService } from '../../audit/service.ts'
import { createDeadlines } from '../../kit/deadline.ts'
import { createTeamStore } from '../../teams/store.ts'
import { requireTeamRight } from '../../teams/team-lock.ts'
import type { Infrastructure } from './infrastructure.ts'

/** The chain of the audit log, its partitions, and its readers. What writes it is made before: see `composeInfrastructure`. */
export const composeAudit = (infrastructure: Infrastructure) => {
  const { config, clock, realClock, log, database, keyedHash, auditSource, auditSink } = infrastructure
  const keys = createAuditKeys({ signer: () => infrastructure.keys.signer(), keyedHash })
  const teamStore = createTeamStore(database.read, database.analytics)
  const sql = database.batch
  return {
    chainer: createChainer({
      store: createChainStore(sql),
      keys,
      clock: realClock,
      log,
      recordings: auditSource,
      onRestart: (month) =>
        auditSink.event({
          action: 'audit.chain_restarted',
          actor: 'system',
          target: { type: 'audit', id: month },
          context: { requestId: 'audit', actingKeyId: undefined, request: undefined, audit: auditSource },
        }),
    }),
    maintainAudit: createMaintenance({
      store: createMaintenanceStore(sql),
      keys,
      listKeys: () => listAuditKeys(sql),
      retentionMs: config.auditRetentionMs,
      clock: realClock,
      log,
    }),
    auditService: createAuditService({
      store: createListStore(database.admin),
      sql,
      keys,
      source: auditSource,
      sink: auditSink,
      startDeadline: createDeadlines(clock),
      requireTeamOwner: async (deadline, teamId, userId) => {
        requireTeamRight(await teamStore.find(deadline, teamId, userId), 'read_audit')
      },
    }),
  }
}
