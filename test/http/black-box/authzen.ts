import { beforeAll, describe, expect, test } from 'bun:test'
import type { Person } from '../../harness.ts'
import { unknownId } from './document.ts'
import { type Group, refusal } from './driver.ts'

const single = '/access/v1/evaluation'
const several = '/access/v1/evaluations'
const searches = ['subject', 'resource', 'action'].map((name) => `/access/v1/search/${name}`)

export const authzen: Group = (world) =>
  describe('AuthZEN', () => {
    let operator: Person | undefined
    let person: Person
    let key = ''
    let wrongKey = ''
    let searchKey = ''
    let project: string
    beforeAll(async () => {
      operator = await world().operator()
      person = await world().register()
      project = (await world().post('/api/v1/projects', { name: 'Asked' }, { token: person.token })).body.id
      if (operator === undefined) return
      const { token } = operator
      const make = async (scope: string) =>
        (await world().post('/api/v1/service-keys', { name: 'pep', scopes: [scope] }, { token })).body.key
      key = await make('authorization:check')
      wrongKey = await make('performance:read')
      searchKey = await make('authorization:list')
    })
    const evaluation = (id = person.id, action = 'read', resource = project) => ({
      subject: { type: 'user', id },
      action: { name: action },
      resource: { type: 'project', id: resource },
    })
    const ask = (path: string, body: object, token = key) => world().post(path, body, { token })

    test('publishes its metadata', async () => {
      const { status, body } = await world().get('/.well-known/authzen-configuration')
      expect(status).toBe(200)
      expect(body.access_evaluation_endpoint).toBe(body.policy_decision_point + single)
      expect(body.access_evaluations_endpoint).toBe(body.policy_decision_point + several)
      expect(body.search_action_endpoint).toBe(body.policy_decision_point + searches[2])
    })

    test('accepts service keys with the scope, and no access tokens', async () => {
      for (const [path, body] of [
        [single, evaluation()],
        [several, { evaluations: [evaluation()] }],
        ...searches.map((path) => [path, evaluation()] as const),
      ] as const) {
        expect(refusal(await ask(path, body, person.token))).toBe('403 access.services_only')
        if (operator === undefined) continue
        expect(refusal(await ask(path, body, operator.token))).toBe('403 access.services_only')
        expect(refusal(await ask(path, body, wrongKey))).toBe('403 service_key.scope_missing')
      }
    })

    test('decides like the check route, and ignores unknown members', async () => {
      if (operator === undefined) return
      const yes = await ask(single, { ...evaluation(), context: { time: 'now' }, unknown: [1] })
      expect([yes.status, yes.body.decision]).toEqual([200, true])
      for (const no of [
        evaluation(unknownId),
        evaluation(operator.id),
        evaluation(person.id, 'fly'),
        evaluation(person.id, 'read', 'x'),
      ]) {
        const { status, body } = await ask(single, no)
        expect([status, body.decision]).toEqual([200, false])
      }
    })

    test('evaluates several items with shared defaults, in the order of the request', async () => {
      if (operator === undefined) return
      const { subject, resource } = evaluation()
      const evaluations = ['read', 'fly', 'admin'].map((name) => ({ action: { name } }))
      const decisions = async (body: object) =>
        (await ask(several, { subject, resource, evaluations, ...body })).body.evaluations.map(
          ({ decision }: { decision: boolean }) => decision,
        )
      expect(await decisions({})).toEqual([true, false, true])
      const semantic = (evaluations_semantic: string) => ({ options: { evaluations_semantic } })
      expect(await decisions(semantic('deny_on_first_deny'))).toEqual([true, false])
      expect(await decisions(semantic('permit_on_first_permit'))).toEqual([true])
      const alone = await ask(several, evaluation())
      expect(alone.body.decision).toBe(true)
    })

    test('denies an item with an incomplete member, though the default is complete', async () => {
      if (operator === undefined) return
      const { body } = await ask(several, { ...evaluation(), evaluations: [{ resource: { type: 'project' } }, {}] })
      expect(body.evaluations.map(({ decision }: { decision: boolean }) => decision)).toEqual([false, true])
    })

    test('searches subjects, resources and actions in pages', async () => {
      if (operator === undefined) return
      const [subjects = '', resources = '', actions = ''] = searches
      const owner = { type: 'user', id: person.id }
      // Other people's public projects can be read too.
      const written = evaluation(person.id, 'write')
      const found = await ask(subjects, written, searchKey)
      expect([found.status, found.body.results]).toEqual([200, [owner]])
      const owned = await ask(resources, written, searchKey)
      expect(owned.body).toEqual({
        results: [{ type: 'project', id: project }],
        page: { next_token: '', count: 1 },
      })
      const first = await ask(actions, { ...evaluation(), page: { limit: 5 } }, searchKey)
      const token = first.body.page.next_token
      const rest = await ask(actions, { ...evaluation(), page: { token } }, searchKey)
      expect([first.body.results.length, rest.body.results.length, rest.body.page.next_token]).toEqual([5, 2, ''])
    })

    test('takes a NUL character in the context, which it ignores', async () => {
      if (operator === undefined) return
      const body = JSON.stringify({ ...evaluation(), context: { note: '@' } }).replace('@', '\\u0000')
      const answer = await world().post(single, body, { token: key })
      expect([answer.status, answer.body.decision]).toEqual([200, true])
    })

    test('returns the request id of the caller', async () => {
      const mine = { headers: { 'x-request-id': '0123456789abcdef0123456789abcdef' }, token: key }
      const { headers } = await world().post(single, evaluation(), mine)
      expect(headers.get('x-request-id')).toBe('0123456789abcdef0123456789abcdef')
    })
  })
