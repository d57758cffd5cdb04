import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { until } from '../../faults/support.ts'
import type { Person } from '../../harness.ts'
import { type Receiver, startReceiver, verify } from '../../webhooks/receiver.ts'
import { unknownId } from './document.ts'
import { type Group, receiverPorts, refusal } from './driver.ts'
import { foundTeam } from './teams.ts'

const path = '/api/v1/webhooks'
const elsewhere = 'https://receiver.invalid/'

/** A receiver at one of the ports that the server may reach. */
const startReachableReceiver = async (): Promise<Receiver> => {
  for (const port of receiverPorts) {
    const receiver = await startReceiver(port).catch(() => undefined)
    if (receiver !== undefined) return receiver
  }
  throw new Error(`None of the ports ${receiverPorts.join(', ')} is free`)
}

export const webhooks: Group = (world) =>
  describe('webhooks', () => {
    let operator: Person | undefined
    let owner: Person
    let member: Person
    let team: string
    let receiver: Receiver
    beforeAll(async () => {
      receiver = await startReachableReceiver()
      operator = await world().operator()
      owner = await world().register()
      member = await world().register()
      team = await foundTeam(world(), owner, [[member, 'editor']])
    })
    afterAll(async () => {
      if (operator !== undefined) {
        const { items } = (await world().get(`${path}?limit=100`, { token: operator.token })).body
        for (const { id } of items) await world().delete(`${path}/${id}`, { token: operator.token })
      }
      await world().delete(`/api/v1/teams/${team}`, { token: owner.token })
      await receiver.close()
    })

    test('of operators get signed events, which can be replayed, and their secrets rotate', async () => {
      if (operator === undefined) return
      const { token } = operator
      const asked = { url: receiver.url('/in'), events: ['user.created', 'team.member_added'], description: 'Billing' }
      const made = await world().post(path, asked, { token })
      expect(made.status).toBe(201)
      const { secret, ...shown } = made.body
      expect((await world().get(`${path}?limit=1`, { token })).body.items).toEqual([shown])
      const person = await world().register()
      const about = () => receiver.received('/in').filter(({ data }) => data.user_id === person.id)
      await until(() => about().length === 1, 'the event came in')
      const [request] = about()
      if (request === undefined) throw new Error('No request')
      expect(verify(request, secret)).toMatchObject({ type: 'user.created', data: { user_id: person.id } })

      const rotated = await world().post(`${path}/${shown.id}/secret`, {}, { token })
      expect(rotated.status).toBe(200)
      const replayed = await world().post(`${path}/${shown.id}/deliveries/${request.id}/replay`, undefined, { token })
      expect(replayed.status).toBe(204)
      await until(() => about().length === 2, 'the replay came in')
      const [, again] = about()
      if (again === undefined) throw new Error('No request')
      expect(again.id).toBe(request.id)
      for (const each of [secret, rotated.body.secret]) expect(verify(again, each)).toBeObject()

      const deliveries = `${path}/${shown.id}/deliveries`
      const isDelivered = async () => {
        const { body } = await world().get(`${deliveries}?status=delivered`, { token })
        return body.items.some(
          ({ event_id, attempts }: { event_id: string; attempts: number }) => event_id === again.id && attempts === 2,
        )
      }
      await until(isDelivered, 'the delivery is stored')
      const all = await world().post(`${path}/${shown.id}/replay`, {}, { token })
      expect([all.status, all.body]).toEqual([200, { replayed: 0 }])
      const changed = await world().patch(`${path}/${shown.id}`, { enabled: false }, { token })
      expect(changed.body).toMatchObject({ enabled: false, status: 'disabled' })
      expect((await world().get(`${path}/${shown.id}`, { token })).body).toEqual(changed.body)
      expect((await world().delete(`${path}/${shown.id}`, { token })).status).toBe(204)
    })

    test('of operators that do not exist are 404, and there are at most 20', async () => {
      if (operator === undefined) return
      const { token } = operator
      const one = `${path}/${unknownId}`
      for (const answer of [
        world().get(one, { token }),
        world().patch(one, { enabled: true }, { token }),
        world().delete(one, { token }),
        world().post(`${one}/secret`, {}, { token }),
        world().get(`${one}/deliveries`, { token }),
        world().post(`${one}/deliveries/${unknownId}/replay`, undefined, { token }),
        world().post(`${one}/replay`, {}, { token }),
      ]) {
        expect(refusal(await answer)).toBe('404 webhook.not_found')
      }
      const add = () => world().post(path, { url: elsewhere, events: ['user.closed'] }, { token })
      let { body: first } = await add()
      const event = `${path}/${first.id}/deliveries/${unknownId}/replay`
      expect(refusal(await world().post(event, undefined, { token }))).toBe('404 webhook.delivery_not_found')
      for (let count = 1; count < 20; count += 1) ({ body: first } = await add())
      expect(refusal(await add())).toBe('409 webhook.too_many')
    })

    test('are for operators, and those of a team for its admins', async () => {
      const root = `/api/v1/teams/${team}/webhooks`
      const one = `${root}/${unknownId}`
      const asked = { url: elsewhere, events: ['access.changed'] }
      const stranger = await world().register()
      for (const [at, person, code] of [
        [path, member, '403 access.admins_only'],
        [root, member, '403 team.role_too_low'],
        [root, stranger, '404 team.not_found'],
      ] as const) {
        const sending = { token: person.token }
        for (const answer of [
          world().post(at, asked, sending),
          world().get(at, sending),
          world().get(`${at}/${unknownId}`, sending),
          world().patch(`${at}/${unknownId}`, { enabled: true }, sending),
          world().delete(`${at}/${unknownId}`, sending),
          world().post(`${at}/${unknownId}/secret`, {}, sending),
          world().get(`${at}/${unknownId}/deliveries`, sending),
          world().post(`${at}/${unknownId}/deliveries/${unknownId}/replay`, undefined, sending),
          world().post(`${at}/${unknownId}/replay`, {}, sending),
        ]) {
          expect(refusal(await answer)).toBe(code)
        }
      }
      expect(refusal(await world().delete(one, { token: owner.token }))).toBe('404 webhook.not_found')
    })

    test('of a team have its events, and at most 5 are possible', async () => {
      const root = `/api/v1/teams/${team}/webhooks`
      const { token } = owner
      const asked = { url: elsewhere, events: ['team.member_added'] }
      const made = await world().post(root, asked, { token })
      expect(made.status).toBe(201)
      const { secret: _, ...shown } = made.body
      const one = `${root}/${shown.id}`
      expect((await world().get(root, { token })).body).toEqual({ items: [shown], next_cursor: null })
      expect((await world().get(one, { token })).body).toEqual(shown)
      const joining = await world().register()
      const { secret } = (
        await world().post(`/api/v1/teams/${team}/invitations`, { email: joining.email, role: 'viewer' }, { token })
      ).body
      await world().post('/api/v1/teams/invitations/accept', { secret }, { token: joining.token })
      const { items } = (await world().get(`${one}/deliveries`, { token })).body
      expect(items).toMatchObject([
        { type: 'team.member_added', resource: `team:${team}`, data: { user_id: joining.id, role: 'viewer' } },
      ])
      const replay = (id: string) => world().post(`${one}/deliveries/${id}/replay`, undefined, { token })
      expect((await replay(items[0].event_id)).status).toBe(204)
      expect(refusal(await replay(unknownId))).toBe('404 webhook.delivery_not_found')
      expect((await world().post(`${one}/replay`, {}, { token })).body).toEqual({ replayed: 0 })
      expect((await world().post(`${one}/secret`, { overlap_hours: 0 }, { token })).status).toBe(200)
      expect((await world().patch(one, { description: 'Ours' }, { token })).body.description).toBe('Ours')
      for (let count = 1; count < 5; count += 1) expect((await world().post(root, asked, { token })).status).toBe(201)
      expect(refusal(await world().post(root, asked, { token }))).toBe('409 webhook.too_many')
      expect((await world().delete(one, { token })).status).toBe(204)
    })

    test('are refused for a URL that leads into a private network', async () => {
      for (const url of [
        'http://receiver.example/',
        'https://127.0.0.1/',
        'https://169.254.169.254/',
        receiver.url('/'),
      ]) {
        const answer = await world().post(
          `/api/v1/teams/${team}/webhooks`,
          { url, events: ['access.changed'] },
          { token: owner.token },
        )
        expect([url, refusal(answer)]).toEqual([url, '422 request.invalid'])
      }
    })
  })
