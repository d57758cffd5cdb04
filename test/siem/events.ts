import type { AuditedEvent } from '../../src/siem/ocsf.ts'

const id = (number: number) => `0190a6a0-0000-7000-8000-${number.toString(16).padStart(12, '0')}`
const [user, session, project] = [id(1), id(2), id(3)]

/** An event of the audit log, with these members. */
export const auditedEvent = (over: Partial<AuditedEvent> = {}, sequence = 1): AuditedEvent => ({
  id: id(1_000 + sequence),
  at: '2026-11-30T21:00:00.123456Z',
  action: 'project.changed',
  actorKind: 'user',
  actorId: user,
  serviceKeyId: null,
  sessionId: session,
  targetType: 'project',
  targetId: project,
  userId: null,
  teamId: null,
  requestId: '0af7651916cd43dd8448eb211c80319c',
  before: { visibility: 'private' },
  after: { visibility: 'public' },
  count: 1,
  address: '203.0.113.7',
  userAgent: 'Mozilla/5.0',
  chain: { month: '2026-11-01T00:00:00Z', sequence, hash: 'ab'.repeat(32) },
  ...over,
})
