import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { randomBytes } from 'node:crypto'
import { manualClock } from '../../src/kit/clock.ts'
import type { Answer, Person } from '../harness.ts'
import { outcomeOf, startTeamFixture, type TeamFixture, type TeamPeople, unknownId } from '../teams/fixture.ts'

const path = '/api/v1/teams'
const invitationNotFound = '404 team.invitation_not_found'
const invitationGone = '410 team.invitation_gone'
const dayMs = 86_400_000

const clock = manualClock()
let fixture: TeamFixture
let people: TeamPeople

beforeAll(async () => {
  fixture = await startTeamFixture({ clock })
  people = await fixture.people()
})
afterAll(() => fixture.close())

const as = ({ token }: Person) => ({ token })

const post = (target: string, body: unknown, caller: Person) => fixture.client.post(path + target, body, as(caller))
const decline = (caller: Person, secret: string) => post('/invitations/decline', { secret }, caller)
const list = async (caller: Person, teamId: string, query = '') =>
  (await fixture.client.get(`${path}/${teamId}/invitations${query}`, as(caller))).body.items
const cancel = (caller: Person, teamId: string, id: string) =>
  fixture.client.delete(`${path}/${teamId}/invitations/${id}`, as(caller))
const isMember = async (teamId: string, caller: Person) =>
  (await fixture.client.get(`${path}/${teamId}`, as(caller))).status === 200

/** Signs a user in again after its token has expired. */
const signIn = async (person: Person): Promise<Person> => {
  const { email, password } = person
  const { body } = await fixture.client.post('/api/v1/auth/login', { email, password })
  return { ...person, token: body.access_token }
}

describe('an invitation', () => {
  test('is created with its secret, which no list returns', async () => {
    const id = await fixture.createTeamOf(people)
    const guest = await fixture.person()
    const { status, body } = await post(`/${id}/invitations`, { email: guest.email, role: 'editor' }, people.admin)
    expect(status).toBe(201)
    const { secret, ...invitation } = body
    expect(secret).toMatch(/^[A-Za-z0-9_-]{43}$/)
    expect(invitation).toMatchObject({
      team_id: id,
      email: guest.email,
      role: 'editor',
      status: 'pending',
      invited_by: people.admin.id,
    })
    expect(Date.parse(invitation.created_at)).toBe(clock.now())
    expect(Date.parse(invitation.expires_at)).toBe(clock.now() + 7 * dayMs)
    const listed = await fixture.client.get(`${path}/${id}/invitations`, as(people.owner))
    expect(listed.body).toEqual({ items: [invitation], next_cursor: null })
    expect(Object.keys(listed.body.items[0])).not.toContain('secret')
  })

  test('is stored with a hash of its secret, so that a dump of the database contains no valid secret', async () => {
    const id = await fixture.createTeamOf(people)
    const { secret } = await fixture.invite(people.owner, id, 'dump@example.com')
    const bytes = Buffer.from(secret, 'base64url')
    expect(bytes).toHaveLength(32)
    const storedTeam = JSON.stringify(await fixture.storedTeam(id))
    expect(storedTeam).toContain(new Bun.CryptoHasher('sha256').update(bytes).digest('hex'))
    for (const text of [secret, bytes.toString('hex'), bytes.toString('base64')]) expect(storedTeam).not.toContain(text)
  })

  test('that is accepted adds a member with its role, and cannot be used again', async () => {
    const id = await fixture.createTeamOf(people)
    for (const role of ['admin', 'editor', 'contributor', 'viewer'] as const) {
      const guest = await fixture.person()
      const { secret } = await fixture.invite(people.owner, id, guest.email, role)
      expect(await isMember(id, guest)).toBe(false)
      const { status, body } = await fixture.accept(guest, secret)
      expect([status, body.id, body.role, body.owner_id]).toEqual([200, id, role, people.owner.id])
      expect((await fixture.client.get(`${path}/${id}`, as(guest))).body).toEqual(body)
      expect(outcomeOf(await fixture.accept(guest, secret))).toBe(invitationGone)
      expect(outcomeOf(await decline(guest, secret))).toBe(invitationGone)
    }
    expect((await list(people.owner, id)).map(({ status }: { status: string }) => status)).toEqual(
      Array(4).fill('accepted'),
    )
  })

  test('that was accepted does not let a removed member back in', async () => {
    const id = await fixture.createTeamOf(people)
    const guest = await fixture.person()
    const { secret } = await fixture.invite(people.owner, id, guest.email)
    await fixture.accept(guest, secret)
    await fixture.client.delete(`${path}/${id}/members/${guest.id}`, as(people.owner))
    expect(outcomeOf(await fixture.accept(guest, secret))).toBe(invitationGone)
    expect(await isMember(id, guest)).toBe(false)
    const again = await fixture.invite(people.owner, id, guest.email)
    expect(outcomeOf(await fixture.accept(guest, again.secret))).toBe('200')
  })

  test('matches the account with its address, regardless of case and Unicode normalization form', async () => {
    const id = await fixture.createTeamOf(people)
    const local = `Zoë-${randomBytes(4).toString('hex')}`
    const guest = await fixture.person({ email: `${local}@example.com` })
    const spellings = [local.normalize('NFD'), local.toUpperCase(), local.normalize('NFD').toLowerCase()]
    for (const spelling of spellings) {
      const created = await fixture.invite(people.owner, id, `${spelling}@EXAMPLE.com`)
      expect(created.email).toBe(`${local}@example.com`.toLowerCase())
      expect(outcomeOf(await decline(guest, created.secret))).toBe('204')
    }
    const { secret } = await fixture.invite(people.owner, id, `${local.normalize('NFD')}@Example.com`)
    expect(outcomeOf(await fixture.accept(guest, secret))).toBe('200')
    expect(
      outcomeOf(
        await post(`/${id}/invitations`, { email: `${local.toUpperCase()}@example.com`, role: 'viewer' }, people.owner),
      ),
    ).toBe('409 team.already_member')
  })

  test('does not match an address that only looks alike', async () => {
    const id = await fixture.createTeamOf(people)
    const tail = randomBytes(4).toString('hex')
    const guest = await fixture.person({ email: `paul-${tail}@example.com` })
    for (const address of [`pаul-${tail}@example.com`, `ｐaul-${tail}@example.com`, `paul-${tail}@example.com.au`]) {
      const { secret } = await fixture.invite(people.owner, id, address)
      expect(outcomeOf(await fixture.accept(guest, secret))).toBe(invitationNotFound)
    }
    for (const spelling of [` ${guest.email}`, `${guest.email} `, `${guest.email}\u0000`]) {
      const answer = await post(`/${id}/invitations`, { email: spelling, role: 'viewer' }, people.owner)
      expect([400, 422]).toContain(answer.status)
    }
  })

  test('to an address without an account can be accepted after registration', async () => {
    const id = await fixture.createTeamOf(people)
    const email = `later-${randomBytes(4).toString('hex')}@example.com`
    const { secret } = await fixture.invite(people.owner, id, email)
    const guest = await fixture.person({ email })
    expect(outcomeOf(await fixture.accept(guest, secret))).toBe('200')
  })

  test('that is declined cannot be accepted, and a new one can be sent', async () => {
    const id = await fixture.createTeamOf(people)
    const guest = await fixture.person()
    const { secret } = await fixture.invite(people.owner, id, guest.email)
    const declined = await decline(guest, secret)
    expect([declined.status, declined.body]).toEqual([204, undefined])
    expect(outcomeOf(await fixture.accept(guest, secret))).toBe(invitationGone)
    expect(outcomeOf(await decline(guest, secret))).toBe(invitationGone)
    expect(await list(people.owner, id)).toMatchObject([{ status: 'declined' }])
    const again = await fixture.invite(people.owner, id, guest.email)
    expect(outcomeOf(await fixture.accept(guest, again.secret))).toBe('200')
  })

  test('that is cancelled cannot be accepted; a closed, unknown or other team’s invitation cannot be cancelled', async () => {
    const id = await fixture.createTeamOf(people)
    const elsewhere = await fixture.createTeamOf(people)
    const guest = await fixture.person()
    const created = await fixture.invite(people.owner, id, guest.email)
    expect(outcomeOf(await cancel(people.owner, elsewhere, created.id))).toBe(invitationNotFound)
    expect(outcomeOf(await cancel(people.admin, id, created.id))).toBe('204')
    expect(outcomeOf(await cancel(people.admin, id, created.id))).toBe(invitationNotFound)
    expect(outcomeOf(await cancel(people.admin, id, unknownId))).toBe(invitationNotFound)
    expect(outcomeOf(await fixture.accept(guest, created.secret))).toBe(invitationGone)
    expect(await list(people.owner, id)).toMatchObject([{ status: 'cancelled' }])
  })

  test('that is replaced by a new one for the same address cannot be accepted; the new one can', async () => {
    const id = await fixture.createTeamOf(people)
    const guest = await fixture.person()
    const first = await fixture.invite(people.owner, id, guest.email, 'editor')
    const last = await fixture.invite(people.admin, id, guest.email.toUpperCase(), 'viewer')
    expect(await list(people.owner, id)).toMatchObject([
      { id: last.id, status: 'pending', role: 'viewer' },
      { id: first.id, status: 'cancelled', role: 'editor' },
    ])
    expect(outcomeOf(await fixture.accept(guest, first.secret))).toBe(invitationGone)
    expect((await fixture.accept(guest, last.secret)).body.role).toBe('viewer')
  })

  test('to the role admin cannot be replaced or cancelled by an admin', async () => {
    const id = await fixture.createTeamOf(people)
    const guest = await fixture.person()
    const created = await fixture.invite(people.owner, id, guest.email, 'admin')
    const before = await fixture.storedTeam(id)
    const roleTooLow = '403 team.role_too_low'
    expect(outcomeOf(await post(`/${id}/invitations`, { email: guest.email, role: 'viewer' }, people.admin))).toBe(
      roleTooLow,
    )
    expect(outcomeOf(await cancel(people.admin, id, created.id))).toBe(roleTooLow)
    expect(await fixture.storedTeam(id)).toEqual(before)
    expect(outcomeOf(await fixture.accept(guest, created.secret))).toBe('200')
  })

  test('cannot be sent to a member', async () => {
    const id = await fixture.createTeamOf(people)
    for (const { email } of [people.owner, people.viewer]) {
      expect(outcomeOf(await post(`/${id}/invitations`, { email, role: 'viewer' }, people.owner))).toBe(
        '409 team.already_member',
      )
    }
    expect(await list(people.owner, id)).toEqual([])
  })

  test('cannot be accepted after its team was deleted', async () => {
    const id = await fixture.createTeamOf(people)
    const guest = await fixture.person()
    const { secret } = await fixture.invite(people.owner, id, guest.email)
    await fixture.client.delete(`${path}/${id}`, as(people.owner))
    expect(outcomeOf(await fixture.accept(guest, secret))).toBe(invitationNotFound)
  })

  test('to a full team is refused but stays pending, and can be accepted once there is room', async () => {
    const owner = await fixture.person()
    const id = await fixture.createTeam(owner, [[people.viewer, 'viewer']], { max_members: 2 })
    const guest = await fixture.person()
    const { secret } = await fixture.invite(owner, id, guest.email)
    expect(outcomeOf(await fixture.accept(guest, secret))).toBe('409 team.full')
    expect(await list(owner, id)).toMatchObject([{ status: 'pending' }])
    await fixture.client.patch(`${path}/${id}`, { max_members: 3 }, as(owner))
    expect(outcomeOf(await fixture.accept(guest, secret))).toBe('200')
  })

  test('is listed newest first and by status, and the pages together are all of them', async () => {
    const id = await fixture.createTeamOf(people)
    const created: { id: string; status: string }[] = []
    for (let index = 0; index < 7; index += 1) {
      const { id: invitationId } = await fixture.invite(people.owner, id, `n-${index}@example.com`)
      if (index % 3 === 0) await cancel(people.owner, id, invitationId)
      created.unshift({ id: invitationId, status: index % 3 === 0 ? 'cancelled' : 'pending' })
    }
    const walk = async (limit: number, query: string) => {
      const seen: { id: string; status: string }[] = []
      for (let cursor: string | null = ''; cursor !== null; ) {
        const target = `${path}/${id}/invitations?limit=${limit}${query}${cursor && `&cursor=${cursor}`}`
        const { body } = await fixture.client.get(target, as(people.owner))
        seen.push(...body.items.map((item: { id: string; status: string }) => ({ id: item.id, status: item.status })))
        cursor = body.next_cursor
      }
      return seen
    }
    for (const limit of [1, 2, 7, 100]) {
      expect(await walk(limit, '')).toEqual(created)
      for (const status of ['pending', 'cancelled', 'accepted']) {
        expect(await walk(limit, `&status=${status}`)).toEqual(created.filter((one) => one.status === status))
      }
    }
    const wrong = await fixture.client.get(`${path}/${id}/invitations?status=open`, as(people.owner))
    expect(outcomeOf(wrong)).toBe('422 request.invalid')
  })
})

describe('after 7 days', () => {
  test('an invitation expires, and not a millisecond before', async () => {
    const id = await fixture.createTeamOf(people)
    const [early, late] = [await fixture.person(), await fixture.person()]
    const first = await fixture.invite(people.owner, id, early.email)
    const second = await fixture.invite(people.owner, id, late.email)
    clock.advance(7 * dayMs - 1)
    const signedIn = await Promise.all([early, late, people.owner].map(signIn))
    const [ann, ben, owner] = signedIn as [Person, Person, Person]
    expect(outcomeOf(await fixture.accept(ann, first.secret))).toBe('200')
    clock.advance(1)
    expect(outcomeOf(await fixture.accept(ben, second.secret))).toBe(invitationGone)
    expect(outcomeOf(await decline(ben, second.secret))).toBe(invitationGone)
    expect(outcomeOf(await cancel(owner, id, second.id))).toBe(invitationNotFound)
    expect(await list(owner, id, '?status=expired')).toMatchObject([{ id: second.id, status: 'expired' }])
    expect(await list(owner, id, '?status=pending')).toEqual([])
    const { body } = await fixture.client.get(`${path}/${id}/statistics`, as(owner))
    expect(body.pending_invitations).toBe(0)
    const again = await fixture.invite(owner, id, late.email)
    expect(await list(owner, id)).toMatchObject([{ status: 'pending' }, { status: 'expired' }, { status: 'accepted' }])
    expect(outcomeOf(await fixture.accept(ben, second.secret))).toBe(invitationGone)
    expect(outcomeOf(await fixture.accept(ben, again.secret))).toBe('200')
    for (const name of Object.keys(people) as (keyof TeamPeople)[]) people[name] = await signIn(people[name])
  })

  test('an expired invitation to the role admin may be replaced by an admin', async () => {
    const id = await fixture.createTeamOf(people)
    await fixture.invite(people.owner, id, 'ran-out@example.com', 'admin')
    clock.advance(7 * dayMs)
    const admin = await signIn(people.admin)
    expect(outcomeOf(await post(`/${id}/invitations`, { email: 'ran-out@example.com', role: 'viewer' }, admin))).toBe(
      '201',
    )
    for (const name of Object.keys(people) as (keyof TeamPeople)[]) people[name] = await signIn(people[name])
  })
})

describe('an invalid secret', () => {
  const bytesOf = async (action: string, caller: Person, secret: string) => {
    const response = await fetch(`${fixture.baseUrl}${path}/invitations/${action}`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${caller.token}`,
        'content-type': 'application/json',
        traceparent: '00-0123456789abcdef0123456789abcdef-0123456789abcdef-01',
      },
      body: JSON.stringify({ secret }),
    })
    const headers = [...response.headers].filter(([name]) => name !== 'date')
    return JSON.stringify({ status: response.status, headers, body: await response.text() })
  }

  test('gets the same answer byte for byte for every reason, and changes nothing', async () => {
    const id = await fixture.createTeamOf(people)
    const guest = await fixture.person()
    const thief = await fixture.person()
    const secretTo = async (close: (created: { id: string; secret: string }) => Promise<Answer>) => {
      const created = await fixture.invite(people.owner, id, guest.email)
      expect((await close(created)).status).toBeLessThan(300)
      return created.secret as string
    }
    const over = [
      await secretTo((created) => cancel(people.owner, id, created.id)),
      await secretTo((created) => decline(guest, created.secret)),
      await secretTo(() => fixture.invite(people.owner, id, guest.email).then(() => ({ status: 200 }) as Answer)),
    ]
    const secrets: Record<string, string> = {
      'never issued': randomBytes(32).toString('base64url'),
      'not canonical': `${'A'.repeat(42)}B`,
    }
    const elsewhere = await fixture.createTeamOf(people)
    const ofDeletedTeam = await fixture.invite(people.owner, elsewhere, guest.email)
    await fixture.client.delete(`${path}/${elsewhere}`, as(people.owner))
    secrets['of a deleted team'] = ofDeletedTeam.secret
    const fullTeam = await fixture.createTeam(people.owner, [], { max_members: 1 })
    const toFull = await fixture.invite(people.owner, fullTeam, guest.email)
    const used = await fixture.createTeamOf(people)
    const usedUp = await fixture.invite(people.owner, used, guest.email)
    await fixture.accept(guest, usedUp.secret)
    over.push(usedUp.secret)
    const open = await fixture.invite(people.owner, id, guest.email)

    const before = [await fixture.storedTeam(id), await fixture.storedTeam(fullTeam), await fixture.storedTeam(used)]
    for (const action of ['accept', 'decline']) {
      const answers = new Set<string>()
      for (const secret of Object.values(secrets)) answers.add(await bytesOf(action, guest, secret))
      // The invited person learns that an invitation is over; others do not.
      for (const secret of over) {
        expect(await bytesOf(action, guest, secret)).toContain('team.invitation_gone')
        answers.add(await bytesOf(action, thief, secret))
      }
      // A valid secret presented by the inviter, a member and a thief. The thief does not learn that a team is full.
      for (const caller of [people.owner, people.viewer, thief]) {
        for (const { secret } of [open, toFull]) answers.add(await bytesOf(action, caller, secret))
      }
      expect([...answers]).toEqual([expect.stringContaining('team.invitation_not_found')])
    }
    expect([await fixture.storedTeam(id), await fixture.storedTeam(fullTeam), await fixture.storedTeam(used)]).toEqual(
      before,
    )
    expect(outcomeOf(await fixture.accept(guest, open.secret))).toBe('200')
  })

  test('of another length or alphabet gets 422', async () => {
    const { client } = fixture
    for (const secret of [
      '',
      'a',
      'a'.repeat(42),
      'a'.repeat(44),
      `${'a'.repeat(42)}=`,
      `${'a'.repeat(42)}+`,
      1,
      null,
      ['a'],
    ]) {
      expect(outcomeOf(await client.post(`${path}/invitations/accept`, { secret }, as(people.owner)))).toBe(
        '422 request.invalid',
      )
    }
  })
})
