import { describe, expect, test } from 'bun:test'
import { readFile } from 'node:fs/promises'
import Ajv from 'ajv/dist/2020'
import { auditActions, isAuditAction, targetOfAction, textOfAction } from '../../src/audit/catalogue.ts'
import { type AuditedEvent, type OcsfEvent, ocsfVersion, toOcsf } from '../../src/siem/ocsf.ts'
import { auditedEvent } from './events.ts'

type Published = {
  version: string
  classes: Record<string, { properties: Record<string, unknown>; anyOf?: unknown }>
  $defs: Record<string, unknown>
  names: Record<
    string,
    { name: string; category: [number, string]; activities: Record<string, string>; types: Record<string, string> }
  >
}
/** The published schema; see fixtures/reduce.py. */
const published: Published = JSON.parse(await readFile(new URL('fixtures/ocsf-1.5.0.json', import.meta.url), 'utf8'))
const validators = Object.fromEntries(
  Object.entries(published.classes).map(([uid, schema]) => [
    uid,
    new Ajv({ strict: false, allErrors: true }).compile({ ...schema, $defs: published.$defs }),
  ]),
)
const product = { name: 'Velro', version: '1.0.0' }

/** What is wrong with an event, by the schema and by what the schema does not say. */
const faultsOf = (given: OcsfEvent): string[] => {
  const event = JSON.parse(JSON.stringify(given)) as OcsfEvent
  const validate = validators[event.class_uid]
  const names = published.names[event.class_uid]
  if (validate === undefined || names === undefined) return [`the class ${event.class_uid} is not in the schema`]
  const faults = validate(event)
    ? []
    : (validate.errors ?? []).map(({ instancePath, message }) => `${instancePath} ${message}`)
  const say = (isRight: boolean, what: string) => {
    if (!isRight) faults.push(what)
  }
  // Any type of the class passes the schema, and so do seconds.
  say(event.type_uid === event.class_uid * 100 + event.activity_id, 'type_uid is that of another activity')
  say(event.type_name === names.types[event.type_uid], `type_name is not ${names.types[event.type_uid]}`)
  say(event.activity_name === names.activities[event.activity_id], 'activity_name is that of another activity')
  say(event.class_name === names.name, 'class_name is that of another class')
  say(event.category_uid === names.category[0] && event.category_name === names.category[1], 'another category')
  say(Number.isInteger(event.time) && event.time > 1e12 && event.time < 1e13, 'time is not in milliseconds')
  say(event.metadata.version === published.version, 'metadata.version is not that of the schema')
  return faults
}

const decision = { action: 'write', reason: 'project.none', minute: '2026-11-30T21:00:00Z' }
const nothing: Partial<AuditedEvent> = {
  actorKind: 'anonymous',
  actorId: null,
  sessionId: null,
  targetId: null,
  before: null,
  after: null,
  address: undefined,
  userAgent: undefined,
}

test('the mapping names the version of the schema that it is tested against', () => {
  expect(ocsfVersion).toBe(published.version)
})

describe('every event of the catalogue', () => {
  for (const action of auditActions) {
    test(`${action} is a valid event of OCSF, with and without an actor, a client and values`, () => {
      if (!isAuditAction(action)) throw new Error(action)
      const about = targetOfAction(action)
      const targetType = about === 'resource' ? 'project' : about
      const after = about === 'resource' ? decision : { role: 'admin' }
      const message = textOfAction(action)
      const variants: Partial<AuditedEvent>[] = [
        { after },
        {
          after,
          serviceKeyId: auditedEvent().actorId,
          userId: auditedEvent().actorId,
          teamId: auditedEvent().targetId,
        },
        nothing,
        { ...nothing, actorKind: 'system' },
        { address: '2001:db8::7', userAgent: 'x'.repeat(256) },
        { address: 'unknown', after: { list: [1, 'two'], values: { a: null } }, count: 1_000, head: 'a.b.c' },
      ]
      for (const variant of variants) {
        const event = toOcsf(auditedEvent({ action, targetType, ...variant }), message, product)
        expect([variant, faultsOf(event)]).toEqual([variant, []])
        expect(event.message).toBe(message)
        expect(event.metadata.event_code).toBe(action)
      }
    })
  }
})

describe('the check itself', () => {
  const event = toOcsf(auditedEvent(), 'a message', product)
  const broken: Readonly<Record<string, object>> = {
    'a type of another activity of the class': { type_uid: 300_404 },
    seconds: { time: 1_764_536_400 },
    'an attribute that the class does not have': { colour: 'red' },
    'a missing entity': { entity: undefined },
    'a severity that is none': { severity_id: 7 },
    'an address that is none': { src_endpoint: { ip: 'nowhere' } },
    'no metadata': { metadata: { version: ocsfVersion } },
  }
  for (const [what, change] of Object.entries(broken))
    test(`finds ${what}`, () => {
      expect(faultsOf(event)).toEqual([])
      expect(faultsOf({ ...event, ...change } as OcsfEvent).length).toBeGreaterThan(0)
    })
})

describe('events say what happened', () => {
  const kindOf = (over: Partial<AuditedEvent>) => {
    const { type_name, status, severity } = toOcsf(auditedEvent(over), '', product)
    return [type_name, status, severity].join(', ')
  }
  const cases: readonly (readonly [Partial<AuditedEvent>, string])[] = [
    [{ action: 'sign_in.succeeded', targetType: 'session' }, 'Authentication: Logon, Success, Informational'],
    [{ action: 'sign_in.failed', targetType: 'user' }, 'Authentication: Logon, Failure, Low'],
    [
      { action: 'session.refresh_reused', targetType: 'session' },
      'Authentication: Service Ticket Renew, Failure, High',
    ],
    [{ action: 'session.ended', targetType: 'session' }, 'Authentication: Logoff, Success, Informational'],
    [{ action: 'password.changed', targetType: 'user' }, 'Account Change: Password Change, Success, Informational'],
    [{ action: 'totp.enabled', targetType: 'user' }, 'Account Change: MFA Factor Enable, Success, Informational'],
    [{ action: 'account.closed', targetType: 'user' }, 'Account Change: Delete, Success, Informational'],
    [{ action: 'team.member_removed', targetType: 'team' }, 'Group Management: Remove User, Success, Informational'],
    [
      { action: 'grant.withdrawn', targetType: 'project' },
      'Group Management: Revoke Privileges, Success, Informational',
    ],
    [{ action: 'project.created', targetType: 'project' }, 'Entity Management: Create, Success, Informational'],
    [{ action: 'webhook.removed', targetType: 'webhook' }, 'Entity Management: Delete, Success, Informational'],
    [{ action: 'mode.changed', targetType: 'mode' }, 'Entity Management: Update, Success, Medium'],
    [{ action: 'access.denied', after: decision }, 'API Activity: Update, Failure, Informational'],
    [
      { action: 'access.allowed', after: { ...decision, action: 'read' } },
      'API Activity: Read, Success, Informational',
    ],
  ]
  for (const [over, said] of cases)
    test(`${over.action}: ${said}`, () => {
      expect(kindOf(over)).toBe(said)
    })

  test('with who did it from where, to which resource, in which request, and its place in the chain', () => {
    const event = toOcsf(auditedEvent({ head: 'a.b.c' }), 'a project was changed', product)
    const { id, actorId, sessionId, targetId, requestId } = auditedEvent()
    expect(event).toMatchObject({
      message: 'a project was changed',
      time: Date.parse('2026-11-30T21:00:00.123Z'),
      actor: { user: { uid: actorId ?? '' }, session: { uid: sessionId ?? '' } },
      src_endpoint: { ip: '203.0.113.7' },
      entity: { type: 'project', uid: targetId },
      metadata: { uid: id, correlation_uid: requestId, sequence: 1 },
      unmapped: { before: { visibility: 'private' }, after: { visibility: 'public' }, chain_head: 'a.b.c' },
    })
  })
})
