import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { randomBytes } from 'node:crypto'
import { manualClock } from '../../src/kit/clock.ts'
import type { Answer, Person } from '../harness.ts'
import { type Cast, openStage, type Stage, told, unknownId } from '../teams/fixture.ts'

const path = '/api/v1/teams'
const closed = '404 team.invitation_not_found'
const dayMs = 86_400_000

const clock = manualClock()
let stage: Stage
let cast: Cast

beforeAll(async () => {
  stage = await openStage({ clock })
  cast = await stage.cast()
})
afterAll(() => stage.close())

const as = ({ token }: Person) => ({ token })

const post = (target: string, body: unknown, who: Person) => stage.client.post(path + target, body, as(who))
const decline = (who: Person, secret: string) => post('/invitations/decline', { secret }, who)
const list = async (who: Person, teamId: string, query = '') =>
  (await stage.client.get(`${path}/${teamId}/invitations${query}`, as(who))).body.items
const cancel = (who: Person, teamId: string, id: string) =>
  stage.client.delete(`${path}/${teamId}/invitations/${id}`, as(who))
const isMember = async (teamId: string, who: Person) =>
  (await stage.client.get(`${path}/${teamId}`, as(who))).status === 200

/** Signs everybody in again, where so much time went by that their tokens ran out. */
const signIn = async (person: Person): Promise<Person> => {
  const { email, password } = person
  const { body } = await stage.client.post('/api/v1/auth/login', { email, password })
  return { ...person, token: body.access_token }
}

describe('an invitation', () => {
  test('is issued with its secret, and never shows it again', async () => {
    const id = await stage.foundFor(cast)
    const guest = await stage.person()
    const { status, body } = await post(`/${id}/invitations`, { email: guest.email, role: 'editor' }, cast.admin)
    expect(status).toBe(201)
    const { secret, ...invitation } = body
    expect(secret).toMatch(/^[A-Za-z0-9_-]{43}$/)
    expect(invitation).toMatchObject({
      team_id: id,
      email: guest.email,
      role: 'editor',
      status: 'pending',
      invited_by: cast.admin.id,
    })
    expect(Date.parse(invitation.created_at)).toBe(clock.now())
    expect(Date.parse(invitation.expires_at)).toBe(clock.now() + 7 * dayMs)
    const listed = await stage.client.get(`${path}/${id}/invitations`, as(cast.owner))
    expect(listed.body).toEqual({ items: [invitation], next_cursor: null })
    expect(Object.keys(listed.body.items[0])).not.toContain('secret')
  })

  test('is stored as a hash: nothing in the database lets anybody in', async () => {
    const id = await stage.foundFor(cast)
    const { secret } = await stage.invite(cast.owner, id, 'dump@example.com')
    const bytes = Buffer.from(secret, 'base64url')
    expect(bytes).toHaveLength(32)
    const stored = JSON.stringify(await stage.stored(id))
    expect(stored).toContain(new Bun.CryptoHasher('sha256').update(bytes).digest('hex'))
    for (const text of [secret, bytes.toString('hex'), bytes.toString('base64')]) expect(stored).not.toContain(text)
  })

  test('accepted, makes a member in the role it says, and is used up', async () => {
    const id = await stage.foundFor(cast)
    for (const role of ['admin', 'editor', 'contributor', 'viewer'] as const) {
      const guest = await stage.person()
      const { secret } = await stage.invite(cast.owner, id, guest.email, role)
      expect(await isMember(id, guest)).toBe(false)
      const { status, body } = await stage.accept(guest, secret)
      expect([status, body.id, body.role, body.owner_id]).toEqual([200, id, role, cast.owner.id])
      expect((await stage.client.get(`${path}/${id}`, as(guest))).body).toEqual(body)
      expect(told(await stage.accept(guest, secret))).toBe(closed)
      expect(told(await decline(guest, secret))).toBe(closed)
    }
    expect((await list(cast.owner, id)).map(({ status }: { status: string }) => status)).toEqual(
      Array(4).fill('accepted'),
    )
  })

  test('accepted, then removed: the used secret does not let back in', async () => {
    const id = await stage.foundFor(cast)
    const guest = await stage.person()
    const { secret } = await stage.invite(cast.owner, id, guest.email)
    await stage.accept(guest, secret)
    await stage.client.delete(`${path}/${id}/members/${guest.id}`, as(cast.owner))
    expect(told(await stage.accept(guest, secret))).toBe(closed)
    expect(await isMember(id, guest)).toBe(false)
    const again = await stage.invite(cast.owner, id, guest.email)
    expect(told(await stage.accept(guest, again.secret))).toBe('200')
  })

  test('is for the account whose own address it names, in whatever case and Unicode form that was written', async () => {
    const id = await stage.foundFor(cast)
    const local = `Zoë-${randomBytes(4).toString('hex')}`
    const guest = await stage.person({ email: `${local}@example.com` })
    const spellings = [local.normalize('NFD'), local.toUpperCase(), local.normalize('NFD').toLowerCase()]
    for (const spelling of spellings) {
      const made = await stage.invite(cast.owner, id, `${spelling}@EXAMPLE.com`)
      expect(made.email).toBe(`${local}@example.com`.toLowerCase())
      expect(told(await decline(guest, made.secret))).toBe('204')
    }
    const { secret } = await stage.invite(cast.owner, id, `${local.normalize('NFD')}@Example.com`)
    expect(told(await stage.accept(guest, secret))).toBe('200')
    expect(
      told(
        await post(`/${id}/invitations`, { email: `${local.toUpperCase()}@example.com`, role: 'viewer' }, cast.owner),
      ),
    ).toBe('409 team.already_member')
  })

  test('an address that only looks like another’s is another', async () => {
    const id = await stage.foundFor(cast)
    const tail = randomBytes(4).toString('hex')
    const guest = await stage.person({ email: `paul-${tail}@example.com` })
    for (const address of [`pаul-${tail}@example.com`, `ｐaul-${tail}@example.com`, `paul-${tail}@example.com.au`]) {
      const { secret } = await stage.invite(cast.owner, id, address)
      expect(told(await stage.accept(guest, secret))).toBe(closed)
    }
    for (const spelling of [` ${guest.email}`, `${guest.email} `, `${guest.email}\u0000`]) {
      const answer = await post(`/${id}/invitations`, { email: spelling, role: 'viewer' }, cast.owner)
      expect([400, 422]).toContain(answer.status)
    }
  })

  test('to somebody who has no account yet waits for it', async () => {
    const id = await stage.foundFor(cast)
    const email = `later-${randomBytes(4).toString('hex')}@example.com`
    const { secret } = await stage.invite(cast.owner, id, email)
    const guest = await stage.person({ email })
    expect(told(await stage.accept(guest, secret))).toBe('200')
  })

  test('declined: closed, and another may be sent', async () => {
    const id = await stage.foundFor(cast)
    const guest = await stage.person()
    const { secret } = await stage.invite(cast.owner, id, guest.email)
    const declined = await decline(guest, secret)
    expect([declined.status, declined.body]).toEqual([204, undefined])
    expect(told(await stage.accept(guest, secret))).toBe(closed)
    expect(told(await decline(guest, secret))).toBe(closed)
    expect(await list(cast.owner, id)).toMatchObject([{ status: 'declined' }])
    const again = await stage.invite(cast.owner, id, guest.email)
    expect(told(await stage.accept(guest, again.secret))).toBe('200')
  })

  test('cancelled: closed; one that is closed, of another team, or unknown cannot be cancelled', async () => {
    const id = await stage.foundFor(cast)
    const elsewhere = await stage.foundFor(cast)
    const guest = await stage.person()
    const made = await stage.invite(cast.owner, id, guest.email)
    expect(told(await cancel(cast.owner, elsewhere, made.id))).toBe(closed)
    expect(told(await cancel(cast.admin, id, made.id))).toBe('204')
    expect(told(await cancel(cast.admin, id, made.id))).toBe(closed)
    expect(told(await cancel(cast.admin, id, unknownId))).toBe(closed)
    expect(told(await stage.accept(guest, made.secret))).toBe(closed)
    expect(await list(cast.owner, id)).toMatchObject([{ status: 'cancelled' }])
  })

  test('replaced by a new one for the same address: only the last lets in', async () => {
    const id = await stage.foundFor(cast)
    const guest = await stage.person()
    const first = await stage.invite(cast.owner, id, guest.email, 'editor')
    const last = await stage.invite(cast.admin, id, guest.email.toUpperCase(), 'viewer')
    expect(await list(cast.owner, id)).toMatchObject([
      { id: last.id, status: 'pending', role: 'viewer' },
      { id: first.id, status: 'cancelled', role: 'editor' },
    ])
    expect(told(await stage.accept(guest, first.secret))).toBe(closed)
    expect((await stage.accept(guest, last.secret)).body.role).toBe('viewer')
  })

  test('to be an admin is not replaced or cancelled by an admin', async () => {
    const id = await stage.foundFor(cast)
    const guest = await stage.person()
    const made = await stage.invite(cast.owner, id, guest.email, 'admin')
    const before = await stage.stored(id)
    const low = '403 team.role_too_low'
    expect(told(await post(`/${id}/invitations`, { email: guest.email, role: 'viewer' }, cast.admin))).toBe(low)
    expect(told(await cancel(cast.admin, id, made.id))).toBe(low)
    expect(await stage.stored(id)).toEqual(before)
    expect(told(await stage.accept(guest, made.secret))).toBe('200')
  })

  test('is not sent to somebody who is a member', async () => {
    const id = await stage.foundFor(cast)
    for (const { email } of [cast.owner, cast.viewer]) {
      expect(told(await post(`/${id}/invitations`, { email, role: 'viewer' }, cast.owner))).toBe(
        '409 team.already_member',
      )
    }
    expect(await list(cast.owner, id)).toEqual([])
  })

  test('goes with its team', async () => {
    const id = await stage.foundFor(cast)
    const guest = await stage.person()
    const { secret } = await stage.invite(cast.owner, id, guest.email)
    await stage.client.delete(`${path}/${id}`, as(cast.owner))
    expect(told(await stage.accept(guest, secret))).toBe(closed)
  })

  test('does not fill a team beyond what it may hold, and is good again when there is room', async () => {
    const owner = await stage.person()
    const id = await stage.found(owner, [[cast.viewer, 'viewer']], { max_members: 2 })
    const guest = await stage.person()
    const { secret } = await stage.invite(owner, id, guest.email)
    expect(told(await stage.accept(guest, secret))).toBe('409 team.full')
    expect(await list(owner, id)).toMatchObject([{ status: 'pending' }])
    await stage.client.patch(`${path}/${id}`, { max_members: 3 }, as(owner))
    expect(told(await stage.accept(guest, secret))).toBe('200')
  })

  test('in lists: newest first, by status, and pages together are all of them', async () => {
    const id = await stage.foundFor(cast)
    const made: { id: string; status: string }[] = []
    for (let index = 0; index < 7; index += 1) {
      const { id: invitationId } = await stage.invite(cast.owner, id, `n-${index}@example.com`)
      if (index % 3 === 0) await cancel(cast.owner, id, invitationId)
      made.unshift({ id: invitationId, status: index % 3 === 0 ? 'cancelled' : 'pending' })
    }
    const walk = async (limit: number, query: string) => {
      const seen: { id: string; status: string }[] = []
      for (let cursor: string | null = ''; cursor !== null; ) {
        const target = `${path}/${id}/invitations?limit=${limit}${query}${cursor && `&cursor=${cursor}`}`
        const { body } = await stage.client.get(target, as(cast.owner))
        seen.push(...body.items.map((item: { id: string; status: string }) => ({ id: item.id, status: item.status })))
        cursor = body.next_cursor
      }
      return seen
    }
    for (const limit of [1, 2, 7, 100]) {
      expect(await walk(limit, '')).toEqual(made)
      for (const status of ['pending', 'cancelled', 'accepted']) {
        expect(await walk(limit, `&status=${status}`)).toEqual(made.filter((one) => one.status === status))
      }
    }
    const wrong = await stage.client.get(`${path}/${id}/invitations?status=open`, as(cast.owner))
    expect(told(wrong)).toBe('422 request.invalid')
  })
})

describe('after 7 days', () => {
  test('an invitation is good to the last millisecond and not one longer', async () => {
    const id = await stage.foundFor(cast)
    const [early, late] = [await stage.person(), await stage.person()]
    const first = await stage.invite(cast.owner, id, early.email)
    const second = await stage.invite(cast.owner, id, late.email)
    clock.advance(7 * dayMs - 1)
    const people = await Promise.all([early, late, cast.owner].map(signIn))
    const [ann, ben, owner] = people as [Person, Person, Person]
    expect(told(await stage.accept(ann, first.secret))).toBe('200')
    clock.advance(1)
    expect(told(await stage.accept(ben, second.secret))).toBe(closed)
    expect(told(await decline(ben, second.secret))).toBe(closed)
    expect(told(await cancel(owner, id, second.id))).toBe(closed)
    expect(await list(owner, id, '?status=expired')).toMatchObject([{ id: second.id, status: 'expired' }])
    expect(await list(owner, id, '?status=pending')).toEqual([])
    const { body } = await stage.client.get(`${path}/${id}/statistics`, as(owner))
    expect(body.pending_invitations).toBe(0)
    const again = await stage.invite(owner, id, late.email)
    expect(await list(owner, id)).toMatchObject([{ status: 'pending' }, { status: 'expired' }, { status: 'accepted' }])
    expect(told(await stage.accept(ben, second.secret))).toBe(closed)
    expect(told(await stage.accept(ben, again.secret))).toBe('200')
    for (const name of Object.keys(cast) as (keyof Cast)[]) cast[name] = await signIn(cast[name])
  })

  test('one to be an admin that ran out may be replaced by an admin', async () => {
    const id = await stage.foundFor(cast)
    await stage.invite(cast.owner, id, 'ran-out@example.com', 'admin')
    clock.advance(7 * dayMs)
    const admin = await signIn(cast.admin)
    expect(told(await post(`/${id}/invitations`, { email: 'ran-out@example.com', role: 'viewer' }, admin))).toBe('201')
    for (const name of Object.keys(cast) as (keyof Cast)[]) cast[name] = await signIn(cast[name])
  })
})

describe('a secret that is not good', () => {
  const bytesOf = async (action: string, who: Person, secret: string) => {
    const response = await fetch(`${stage.baseUrl}${path}/invitations/${action}`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${who.token}`,
        'content-type': 'application/json',
        traceparent: '00-0123456789abcdef0123456789abcdef-0123456789abcdef-01',
      },
      body: JSON.stringify({ secret }),
    })
    const headers = [...response.headers].filter(([name]) => name !== 'date')
    return JSON.stringify({ status: response.status, headers, body: await response.text() })
  }

  test('is answered with the same bytes whatever is wrong with it, and changes nothing', async () => {
    const id = await stage.foundFor(cast)
    const guest = await stage.person()
    const thief = await stage.person()
    const secretTo = async (close: (made: { id: string; secret: string }) => Promise<Answer>) => {
      const made = await stage.invite(cast.owner, id, guest.email)
      expect((await close(made)).status).toBeLessThan(300)
      return made.secret as string
    }
    const secrets: Record<string, string> = {
      cancelled: await secretTo((made) => cancel(cast.owner, id, made.id)),
      declined: await secretTo((made) => decline(guest, made.secret)),
      replaced: await secretTo(() => stage.invite(cast.owner, id, guest.email).then(() => ({ status: 200 }) as Answer)),
      'never issued': randomBytes(32).toString('base64url'),
      'not canonical': `${'A'.repeat(42)}B`,
    }
    const elsewhere = await stage.foundFor(cast)
    const doomed = await stage.invite(cast.owner, elsewhere, guest.email)
    await stage.client.delete(`${path}/${elsewhere}`, as(cast.owner))
    secrets['of a team that is gone'] = doomed.secret
    const fullTeam = await stage.found(cast.owner, [], { max_members: 1 })
    const toFull = await stage.invite(cast.owner, fullTeam, guest.email)
    const used = await stage.foundFor(cast)
    const usedUp = await stage.invite(cast.owner, used, guest.email)
    await stage.accept(guest, usedUp.secret)
    secrets['used'] = usedUp.secret
    const open = await stage.invite(cast.owner, id, guest.email)

    const before = [await stage.stored(id), await stage.stored(fullTeam), await stage.stored(used)]
    for (const action of ['accept', 'decline']) {
      const answers = new Set<string>()
      for (const secret of Object.values(secrets)) answers.add(await bytesOf(action, guest, secret))
      // Of a good one: the inviter, another member, a thief. Nor does a full team tell a thief that it is full.
      for (const who of [cast.owner, cast.viewer, thief]) {
        for (const { secret } of [open, toFull]) answers.add(await bytesOf(action, who, secret))
      }
      expect([...answers]).toEqual([expect.stringContaining('team.invitation_not_found')])
    }
    expect([await stage.stored(id), await stage.stored(fullTeam), await stage.stored(used)]).toEqual(before)
    expect(told(await stage.accept(guest, open.secret))).toBe('200')
  })

  test('of another shape does not get that far', async () => {
    const { client } = stage
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
      expect(told(await client.post(`${path}/invitations/accept`, { secret }, as(cast.owner)))).toBe(
        '422 request.invalid',
      )
    }
  })
})
