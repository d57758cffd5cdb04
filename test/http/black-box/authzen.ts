import { beforeAll, describe, expect, test } from 'bun:test'
import type { Person } from '../../harness.ts'
import { unknownId } from './document.ts'
import { type Group, refusal } from './driver.ts'

const single = '/access/v1/evaluation'
const several = '/access/v1/evaluations'

export const authzen: Group = (world) =>
  describe('AuthZEN', () => {
    let operator: Person | undefined
    let person: Person
    let key = ''
    let wrongKey = ''
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
      wrongKey = await make('authorization:list')
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
    })

    test('accepts service keys with the scope, and no access tokens', async () => {
      for (const [path, body] of [
        [single, evaluation()],
        [several, { evaluations: [evaluation()] }],
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

    test('returns the request id of the caller', async () => {
      const mine = { headers: { 'x-request-id': '0123456789abcdef0123456789abcdef' }, token: key }
      const { headers } = await world().post(single, evaluation(), mine)
      expect(headers.get('x-request-id')).toBe('0123456789abcdef0123456789abcdef')
    })
  })
