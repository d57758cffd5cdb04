import { beforeAll, describe, expect, test } from 'bun:test'
import { type AuditAction, isAuditAction, kindOfAction } from '../../../src/audit/catalogue.ts'
import { until } from '../../faults/support.ts'
import type { Person } from '../../harness.ts'
import { nameOf, routesOf } from './document.ts'
import { type Group, refusal, type Sent } from './driver.ts'

const own = '/api/v1/auth/audit'
const all = '/api/v1/security/audit'

/** Routes with a method of changes that change nothing, and why. */
const changesNothing: Readonly<Record<string, string>> = {
  'POST /api/v1/authorization/check': 'a question',
  'POST /api/v1/authorization/check/batch': 'a question',
  'POST /api/v1/authorization/explain': 'a question',
  'POST /access/v1/evaluation': 'a question',
  'POST /access/v1/evaluations': 'a question',
  'POST /access/v1/search/subject': 'a question',
  'POST /access/v1/search/resource': 'a question',
  'POST /access/v1/search/action': 'a question',
  'POST /api/v1/auth/me/export': 'reads; recorded as an event',
  'POST /api/v1/security/audit/export': 'reads; recorded as an event',
  'POST /api/v1/auth/login/passkey/options': 'a challenge, which is stored nowhere',
  'POST /api/v1/auth/passkeys/options': 'a challenge, which is stored nowhere',
  'POST /api/v1/auth/reauthenticate/options': 'a challenge, which is stored nowhere',
  'POST /api/v1/auth/identity-providers/{provider_id}/start': 'a sealed state, which is stored nowhere',
  'POST /api/v1/generations/{generation_id}/stream-tickets': 'a signed ticket, which is stored nowhere',
  'POST /api/v1/media/links': 'signed links, which are stored nowhere',
  'POST /api/v1/media/{media_id}/links': 'a signed link, which is stored nowhere',
}

/** Successes that find everything as it is wanted, and so record nothing. */
const mayFindItDone: readonly string[] = [
  // A retry gets the tokens of the first request.
  'POST /api/v1/auth/refresh',
  'PUT /api/v1/security/feature-flags/{name}',
  'POST /api/v1/security/feature-flags/{name}/restore',
]

/** Changes that another transaction of the same request makes, or that a refused request makes. */
const besides: readonly AuditAction[] = ['session.replaced', 'session.refresh_reused']

/** Groups that need a provider or a mailbox ask these; others do not. */
const notAsked = (name: string) =>
  /identity-providers|linked-identities|[/](confirm|undo)$|login[/]second-factor$|login[/]passkey$/.test(name)

export const auditing: Group = (world) =>
  describe('the audit log', () => {
    let operator: Person | undefined
    let person: Person
    beforeAll(async () => {
      operator = await world().operator()
      person = await world().register()
    })

    test('shows people what they did, and what others did to their account without who that was', async () => {
      const { token } = person
      expect((await world().patch('/api/v1/auth/me', { display_name: 'Renamed' }, { token })).status).toBe(200)
      const { status, body } = await world().get(`${own}?limit=1`, { token })
      expect(status).toBe(200)
      expect(body.items).toEqual([
        expect.objectContaining({
          action: 'account.changed',
          actor: expect.objectContaining({ kind: 'user', id: person.id, session_id: expect.any(String) }),
          after: { changed: ['display_name'] },
        }),
      ])
      expect(refusal(await world().get(own))).toBe('401 identity.not_signed_in')
      expect((await world().get(`${own}?limit=0`, { token })).status).toBe(422)
      if (operator === undefined) return
      const change = await world().patch(`/api/v1/users/${person.id}`, { plan: 'pro' }, { token: operator.token })
      expect(change.status).toBe(200)
      const [event] = (await world().get(`${own}?limit=1`, { token })).body.items
      expect(event).toMatchObject({ action: 'user.changed', before: { plan: 'free' }, after: { plan: 'pro' } })
      expect(event.actor).toMatchObject({ kind: 'user', id: null, session_id: null, address: null })
    })

    test('shows the owner of a team what was done in it, by ids, and no other member or stranger', async () => {
      const { token } = person
      const team = (await world().post('/api/v1/teams', { name: 'Audited' }, { token })).body.id
      const member = await world().register()
      const invited = { email: member.email, role: 'admin' }
      const { secret } = (await world().post(`/api/v1/teams/${team}/invitations`, invited, { token })).body
      await world().post('/api/v1/teams/invitations/accept', { secret }, { token: member.token })
      const path = `/api/v1/teams/${team}/audit`
      const { items } = (await world().get(path, { token })).body
      expect(items.map(({ action }: { action: string }) => action)).toEqual([
        'team.member_joined',
        'team.member_invited',
        'team.created',
      ])
      expect(items[0].actor).toMatchObject({ id: member.id, session_id: null, address: null })
      expect(refusal(await world().get(path, { token: member.token }))).toBe('403 team.role_too_low')
      const stranger = await world().register()
      expect(refusal(await world().get(path, { token: stranger.token }))).toBe('404 team.not_found')
      expect(refusal(await world().get(path))).toBe('401 identity.not_signed_in')
      expect((await world().get(`${path}?limit=0`, { token })).status).toBe(422)
    })

    test('is listed, verified and exported by operators alone', async () => {
      const { token } = person
      const exported = `${all}/export`
      for (const answer of [
        world().get(all, { token }),
        world().get(`${all}/verify`, { token }),
        world().post(exported, {}, { token }),
      ])
        expect(refusal(await answer)).toBe('403 access.admins_only')
      for (const answer of [world().get(all), world().get(`${all}/verify`), world().post(exported, {})])
        expect(refusal(await answer)).toBe('401 identity.not_signed_in')
      if (operator === undefined) return
      const sending = { token: operator.token }
      const found = await world().get(`${all}?action=account.changed&actor_id=${person.id}`, sending)
      expect(found.body.items).toHaveLength(1)
      expect(found.body.items[0].actor.address).toEqual(expect.any(String))
      expect((await world().get(`${all}?action=unknown`, sending)).status).toBe(422)
      const head = await world().get(`${all}/verify?head=e30.e30.AA`, sending)
      expect(refusal(head)).toBe('422 audit.head_foreign')
      const { id } = found.body.items[0]
      // Once the event is linked, a moment later.
      let lines: Record<string, unknown>[] = []
      const isExported = async () => {
        const { text } = await world().post(exported, {}, sending)
        lines = text
          .trimEnd()
          .split('\n')
          .map((line) => JSON.parse(line))
        return lines.some((line) => line['id'] === id)
      }
      await until(isExported, 'the event is linked')
      expect(lines.at(-1)).toEqual({ end: true, events: lines.length - 1 })
      const { status, body } = await world().get(`${all}/verify`, sending)
      expect([status, body.problems, body.intact, body.next_cursor]).toEqual([200, [], true, null])
      expect(body.verified).toBeGreaterThan(100)
      expect((await world().get(`${all}/verify?head=${body.head}`, sending)).body.intact).toBe(true)
    }, 30_000)

    test('has exactly one event of every change that this suite made, and none of a refused one', async () => {
      const { auditedActions } = world().subject
      if (auditedActions === undefined) return
      const actions = await auditedActions()
      const changesOf = ({ requestId }: Sent) =>
        (actions.get(requestId) ?? []).filter(
          (name) => isAuditAction(name) && kindOfAction(name) === 'change' && !besides.includes(name),
        )
      const routes = routesOf(world().document)
        .filter(({ method }) => method !== 'GET')
        .map(nameOf)
      const times = new Map<string, number>()
      for (const { requestId } of world().ledger.changes) times.set(requestId, (times.get(requestId) ?? 0) + 1)
      const audited = new Set<string>()
      const wrong: string[] = []
      for (const sent of world().ledger.changes) {
        // Clients may choose the id of a request, also one that was used before.
        if ((times.get(sent.requestId) ?? 0) > 1) continue
        const recorded = changesOf(sent)
        const isSuccess = sent.status < 300
        if (isSuccess && recorded.length === 1) audited.add(sent.name)
        const expected = !isSuccess || sent.replayed || Object.hasOwn(changesNothing, sent.name) ? 0 : 1
        if (recorded.length !== expected && !(isSuccess && recorded.length === 0 && mayFindItDone.includes(sent.name)))
          wrong.push(`${sent.name} ${sent.status}: ${recorded.join(', ')}`)
      }
      expect([...new Set(wrong)]).toEqual([])
      const missing = routes.filter(
        (name) => !audited.has(name) && !Object.hasOwn(changesNothing, name) && !notAsked(name),
      )
      expect(missing).toEqual([])
      expect(Object.keys(changesNothing).filter((name) => !routes.includes(name))).toEqual([])
    })
  })
