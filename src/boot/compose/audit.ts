import { createChainStore, listAuditKeys } from '../../audit/chain-store.ts'
import { createChainer } from '../../audit/chainer.ts'
import { taskContext } from '../../audit/event.ts'
import { createAuditKeys } from '../../audit/keys.ts'
import { createListStore } from '../../audit/list-store.ts'
import { createMaintenance } from '../../audit/maintenance.ts'
import { createMaintenanceStore } from '../../audit/maintenance-store.ts'
import { createAuditService } from '../../audit/service.ts'
import type { Evidence } from '../../incidents/report.ts'
import { createDeadlines } from '../../kit/deadline.ts'
import { createTeamStore } from '../../teams/store.ts'
import { requireTeamRight } from '../../teams/team-lock.ts'
import type { Infrastructure } from './infrastructure.ts'

/** The chain of the audit log, its partitions, and its readers. What writes it is made before: see `composeInfrastructure`. */
export const composeAudit = (infrastructure: Infrastructure) => {
  const { config, clock, realClock, log, database, keyedHash, auditSource, auditSink, readers } = infrastructure
  const reportBroken = (evidence: Evidence) =>
    infrastructure.incidentReports.open({
      kind: 'audit.chain_broken',
      severity: 'critical',
      subject: { type: 'deployment', id: 'audit' },
      evidence,
    })
  const record = (action: 'audit.chain_restarted' | 'audit.database_moved', id: string | null) =>
    auditSink.event({
      action,
      actor: 'system',
      target: { type: 'audit', id },
      context: taskContext(auditSource, 'audit'),
    })
  const keys = createAuditKeys({ signer: () => infrastructure.keys.signer(), keyedHash })
  const teamStore = createTeamStore(database.read, database.analytics)
  const sql = database.batch
  const chainer = createChainer({
    store: createChainStore(sql),
    keys,
    clock: realClock,
    log,
    recordings: auditSource,
    onRestart: (month) => {
      record('audit.chain_restarted', month)
      reportBroken({ problem: 'chain_restarted', month })
    },
    onMoved: () => record('audit.database_moved', null),
  })
  readers.register('audit_chain', () => {
    const { lagMs } = chainer.figures
    return lagMs === 0 ? null : lagMs
  })
  return {
    chainer,
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
      onProblems: ([first, ...others]) => reportBroken({ ...first, problems: others.length + 1 }),
      startDeadline: createDeadlines(clock),
      requireTeamOwner: async (deadline, teamId, userId) => {
        requireTeamRight(await teamStore.find(deadline, teamId, userId), 'read_audit')
      },
    }),
  }
}
