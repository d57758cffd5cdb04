import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import type { Person } from '../../harness.ts'
import { type Group, refusal } from './driver.ts'

const flagsPath = '/api/v1/security/flags'
const metricsPath = '/api/v1/performance/metrics'
const breakersPath = '/api/v1/security/breakers'
const limitsPath = '/api/v1/security/limits'
const allOn = { l1: true, l2: true, l3: true, warm_up: true }

export const operating: Group = (world) =>
  describe('operating', () => {
    let operator: Person | undefined
    let person: Person
    beforeAll(async () => {
      operator = await world().operator()
      person = await world().register()
    })
    const put = (flags: object, { token }: Person) => world().put(flagsPath, flags, { token })
    afterAll(async () => {
      if (operator !== undefined) expect((await put(allOn, operator)).body).toEqual(allOn)
    })

    test('needs an operator to read or switch flags', async () => {
      const { token } = person
      for (const answer of [
        world().get(flagsPath, { token }),
        world().put(flagsPath, { l1: false }, { token }),
        world().get(metricsPath, { token }),
      ]) {
        expect(refusal(await answer)).toBe('403 access.admins_only')
      }
      for (const path of [flagsPath, metricsPath])
        expect(refusal(await world().get(path))).toBe('401 identity.not_signed_in')
      expect(refusal(await world().put(flagsPath, { l1: false }))).toBe('401 identity.not_signed_in')
    })

    test('operators see the breakers and set a policy of them, others do neither', async () => {
      const { token } = person
      const mail = `${breakersPath}/mail`
      expect(refusal(await world().get(breakersPath))).toBe('401 identity.not_signed_in')
      expect(refusal(await world().get(breakersPath, { token }))).toBe('403 access.admins_only')
      expect(refusal(await world().patch(mail, { failures: 7 }, { token }))).toBe('403 access.admins_only')
      if (operator === undefined) return
      const set = (change: object, of = mail) => world().patch(of, change, { token: operator?.token ?? '' })
      expect((await set({ failures: 7 })).body).toEqual({
        dependency: 'mail',
        mode: 'automatic',
        failures: 7,
        probe_after_ms: 30_000,
      })
      const { status, body } = await world().get(breakersPath, { token: operator.token })
      expect([status, body.policies.find(({ dependency }: { dependency: string }) => dependency === 'mail')]).toEqual([
        200,
        { dependency: 'mail', mode: 'automatic', failures: 7, probe_after_ms: 30_000 },
      ])
      expect(body.breakers.map(({ name }: { name: string }) => name)).toContain('postgres')
      expect(refusal(await set({ mode: 'open' }, `${breakersPath}/postgres`))).toBe('409 breaker.cannot_be_held_open')
      for (const change of [{}, { failures: 0 }, { probe_after_ms: 99 }, { mode: 'half_open' }, { unknown: 1 }])
        expect((await set(change)).status).toBe(422)
      expect((await set({ failures: 5 }, `${breakersPath}/unknown`)).status).toBe(422)
      expect((await set({ failures: 5 })).status).toBe(200)
    })

    test('operators list limited keys and lift one, others do neither', async () => {
      const lift = { budget: 'api', key: 'unknown' }
      const { token } = person
      expect(refusal(await world().get(limitsPath, { token }))).toBe('403 access.admins_only')
      expect(refusal(await world().post(`${limitsPath}/lift`, lift, { token }))).toBe('403 access.admins_only')
      if (operator === undefined) return
      const listed = await world().get(limitsPath, { token: operator.token })
      expect([listed.status, Array.isArray(listed.body.items)]).toEqual([200, true])
      expect((await world().post(`${limitsPath}/lift`, lift, { token: operator.token })).status).toBe(204)
    })

    test('a tier that is switched off is not used, and decisions do not change', async () => {
      if (operator === undefined) return
      const { token } = person
      const { body } = await world().post('/api/v1/projects', { name: 'Asked' }, { token })
      const question = { action: 'read', resource: { type: 'project', id: body.id } }
      const explain = () => world().post('/api/v1/authorization/explain', question, { token })
      const tiers: string[] = []
      for (const flags of [{ l1: false }, { l2: false }, { l3: false }]) {
        const { status, body: told } = await put(flags, operator)
        expect([status, { ...told, ...flags }]).toEqual([200, told])
        expect((await world().get(flagsPath, { token: operator.token })).body).toEqual(told)
        const { body: explained } = await explain()
        expect(explained.allowed).toBe(true)
        tiers.push(explained.layers.find(({ layer }: { layer: number }) => layer === 7).tier)
      }
      expect(tiers[0]).not.toBe('l1')
      expect(tiers.slice(1)).toEqual(['l3', 'database'])
      expect((await put(allOn, operator)).body).toEqual(allOn)
    })

    test('the metrics report hit rate and stale facts to operators and to keys with the scope', async () => {
      if (operator === undefined) return
      const keyWith = async (scope: string) => {
        const asked = { name: scope, scopes: [scope] }
        return (await world().post('/api/v1/service-keys', asked, { token: operator?.token ?? '' })).body.key as string
      }
      for (const token of [operator.token, await keyWith('performance:read')]) {
        const { status, body } = await world().get(metricsPath, { token })
        expect(status).toBe(200)
        expect(body.caches.hit_rate).toBeGreaterThanOrEqual(0)
        expect(body.caches.stale_facts).toBe(0)
        expect(body.bus.lease_held).toBe(true)
      }
      const answer = await world().get(metricsPath, { token: await keyWith('authorization:check') })
      expect(refusal(answer)).toBe('403 service_key.scope_missing')
    })
  })
