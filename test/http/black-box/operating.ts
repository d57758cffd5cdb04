import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { until } from '../../faults/support.ts'
import { openEvents } from '../../harness/events.ts'
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

    test('the page for Prometheus is given to operators and to keys with the scope, in its own format', async () => {
      if (operator === undefined) return
      const { token: own } = operator
      const keyWith = async (scope: string) =>
        (await world().post('/api/v1/service-keys', { name: scope, scopes: [scope] }, { token: own })).body
          .key as string
      for (const token of [own, await keyWith('performance:read')]) {
        const { status, headers } = await world().get('/metrics', { token })
        expect([status, headers.get('content-type')]).toEqual([200, 'text/plain; version=0.0.4; charset=utf-8'])
      }
      expect((await world().get('/metrics', { token: await keyWith('authorization:check') })).body.code).toBe(
        'service_key.scope_missing',
      )
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

    test('the report, the health and the compliance of all instances are for operators', async () => {
      if (operator === undefined) return
      const { token } = operator
      const base = '/api/v1/performance'
      for (const path of ['/report', '/health', '/prd-compliance?window=5m', '/alerts', '/stream'])
        expect([path, refusal(await world().get(base + path, { token: person.token }))]).toEqual([
          path,
          '403 access.admins_only',
        ])
      const { body: report } = await world().get(`${base}/report`, { token })
      expect(
        report.metrics.find(({ metric }: { metric: string }) => metric === 'api').windows[2].samples,
      ).toBeGreaterThan(0)
      expect(report.instances.included).toContain(report.instances.answered_by)
      const { body: health } = await world().get(`${base}/health`, { token })
      expect(health.components.find(({ name }: { name: string }) => name === 'postgres').state).toBe('up')
      const { status, body: alerts } = await world().get(`${base}/alerts?status=open&limit=1`, { token })
      expect([status, Array.isArray(alerts.items)]).toEqual([200, true])
      const { body: compliance } = await world().get(`${base}/prd-compliance?window=5m`, { token })
      expect([compliance.window, compliance.times.length]).toEqual(['5m', report.metrics.length])
    })

    test('the stream of figures sends the report and the health', async () => {
      if (operator === undefined) return
      const path = '/api/v1/performance/stream'
      const live = await openEvents(world().subject.baseUrl + path, { token: operator.token })
      expect([live.status, live.headers.get('content-type')]).toEqual([200, 'text/event-stream'])
      await until(() => live.events.length >= 4, 'the figures arrive twice')
      expect(live.events.slice(0, 4).map(({ event }) => event)).toEqual(['report', 'health', 'report', 'health'])
      live.close()
      const head = await world().send('HEAD', path, { token: operator.token })
      expect([head.status, head.headers.get('content-type'), head.text]).toEqual([200, 'text/event-stream', ''])
    })

    test('an incident is opened by hand, counted, assigned, closed, and then stays closed', async () => {
      if (operator === undefined) return
      const { token, id } = operator
      const incidents = '/api/v1/security/incidents'
      const report = { severity: 'low', subject: { type: 'user', id: person.id } }
      const patch = (incident: string, changes: object) => world().patch(`${incidents}/${incident}`, changes, { token })
      const opened = await world().post(incidents, report, { token })
      expect([opened.status, opened.headers.get('location')]).toEqual([201, `${incidents}/${opened.body.id}`])
      expect((await world().post(incidents, report, { token })).body).toMatchObject({ id: opened.body.id, count: 2 })
      expect((await patch(opened.body.id, { assignee_id: id })).body.assignee_id).toBe(id)
      expect(refusal(await patch(opened.body.id, { assignee_id: person.id }))).toBe('409 incident.assignee_unfit')
      expect((await patch(opened.body.id, { status: 'closed' })).body.resolution).toBe('resolved')
      expect(refusal(await patch(opened.body.id, { note: 'x' }))).toBe('409 incident.closed')
      const listed = await world().get(`${incidents}?subject_id=${person.id}&status=closed`, { token })
      expect(listed.body.items.map((item: { id: string }) => item.id)).toEqual([opened.body.id])
      expect((await world().get(`${incidents}/${opened.body.id}`, { token })).body.evidence).toEqual([])
      const unknown = crypto.randomUUID()
      expect(refusal(await world().get(`${incidents}/${unknown}`, { token }))).toBe('404 incident.not_found')
      expect(refusal(await patch(unknown, { note: 'x' }))).toBe('404 incident.not_found')
    })

    test('a feature flag reaches the people that it names, and one call restores the version before', async () => {
      if (operator === undefined) return
      const { token } = operator
      const name = `flag-${crypto.randomUUID().slice(0, 8)}`
      const path = `/api/v1/security/feature-flags/${name}`
      const isOn = async () => {
        const { status, body } = await world().get('/api/v1/feature-flags', { token: person.token })
        expect(status).toBe(200)
        return body.flags[name]
      }
      const put = (flag: object) => world().put(path, flag, { token })
      const restore = (body: object = {}) => world().post(`${path}/restore`, body, { token })
      expect(await isOn()).toBeUndefined()
      const added = await put({ enabled: true, percent: 0 })
      expect([added.status, added.headers.get('location')]).toEqual([201, path])
      expect(await isOn()).toBe(false)
      expect((await put({ enabled: true, users: [person.id] })).body.version).toBe(2)
      expect(await isOn()).toBe(true)
      expect((await restore()).body.version).toBe(3)
      expect(await isOn()).toBe(false)
      expect(refusal(await restore())).toBe('409 feature_flag.version_not_found')
      expect(refusal(await put({ enabled: true, current_version: 1 }))).toBe('409 feature_flag.changed')
      expect((await world().get(path, { token })).body.version).toBe(3)
      const versions = await world().get(`${path}/versions`, { token })
      expect(versions.body.items.map(({ version }: { version: number }) => version)).toEqual([3, 2, 1])
      expect((await world().delete(path, { token })).status).toBe(204)
      expect(await isOn()).toBeUndefined()
      for (const answer of [
        await world().get(path, { token }),
        await world().delete(path, { token }),
        await world().get(`${path}-other/versions`, { token }),
        await world().post(`${path}-other/restore`, {}, { token }),
      ]) {
        expect(refusal(answer)).toBe('404 feature_flag.not_found')
      }
      expect((await world().get('/api/v1/security/feature-flags', { token })).status).toBe(200)
    })
  })
