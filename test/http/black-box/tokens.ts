import { beforeAll, describe, expect, test } from 'bun:test'
import { createPublicKey, generateKeyPairSync } from 'node:crypto'
import { CompactSign, decodeJwt, decodeProtectedHeader, type JWK, SignJWT } from 'jose'
import type { Person } from '../../harness.ts'
import { nameOf, routesOf, sampleBodyOf, targetOf } from './document.ts'
import { type Group, refusal } from './driver.ts'
import { headOf, sendRaw } from './wire.ts'

const me = '/api/v1/auth/me'
const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')

/** The other spellings of a base64url text that lax decoders take for the same bytes. */
export const spellingsOf = (text: string): string[] => {
  const spare = { 2: 4, 3: 2, 0: 0 }[text.length % 4] ?? 0
  const last = alphabet.indexOf(text.at(-1) as string)
  return Array.from({ length: 2 ** spare - 1 }, (_, index) => text.slice(0, -1) + alphabet[last ^ (index + 1)])
}

/** Forgeries from public knowledge only. Each is refused like a missing token. */
export const tokens: Group = (world) =>
  describe('a forged or damaged access token is refused', () => {
    let ada: Person
    let publicJwk: JWK
    let header: string
    let payload: string
    let signature: string
    const foreign = generateKeyPairSync('ed25519')
    const foreignJwk = foreign.publicKey.export({ format: 'jwk' }) as JWK

    beforeAll(async () => {
      ada = await world().register()
      const { body } = await world().get('/.well-known/jwks.json')
      const { kid } = decodeProtectedHeader(ada.token)
      publicJwk = body.keys.find((key: JWK) => key.kid === kid)
      ;[header, payload, signature] = ada.token.split('.') as [string, string, string]
    })

    const ask = (token: string) => world().get(me, { headers: { authorization: `Bearer ${token}` } })
    const expectRefused = async (token: string) => {
      const answer = await ask(token)
      expect(refusal(answer)).toBe('401 identity.not_signed_in')
      expect(answer.headers.get('www-authenticate')).toBe(
        token.trim() === '' ? 'Bearer' : 'Bearer error="invalid_token"',
      )
    }
    const claims = () => decodeJwt(ada.token)
    const ours = () => ({ alg: 'EdDSA', typ: 'at+jwt', kid: publicJwk.kid as string })
    const signWith = (key: Parameters<SignJWT['sign']>[0], protectedHeader: { alg: string }) =>
      new SignJWT(claims()).setProtectedHeader(protectedHeader).sign(key)

    test('the unaltered token is accepted', async () => {
      expect((await ask(ada.token)).status).toBe(200)
    })

    for (const alg of ['none', 'None', 'NONE', '']) {
      test(`alg "${alg}", with and without a signature`, async () => {
        for (const end of ['', signature]) await expectRefused(`${encode({ ...ours(), alg })}.${payload}.${end}`)
        await expectRefused(`${encode({ ...ours(), alg })}.${payload}`)
      })
    }

    const secretsFromThePublicKey: Record<string, (jwk: JWK) => Uint8Array> = {
      bytes: (jwk) => Buffer.from(jwk.x as string, 'base64url'),
      'base64url text': (jwk) => Buffer.from(jwk.x as string),
      PEM: (jwk) =>
        Buffer.from(createPublicKey({ key: jwk as never, format: 'jwk' }).export({ type: 'spki', format: 'pem' })),
      DER: (jwk) => createPublicKey({ key: jwk as never, format: 'jwk' }).export({ type: 'spki', format: 'der' }),
      JWK: (jwk) => Buffer.from(JSON.stringify(jwk)),
    }
    for (const [form, secretOf] of Object.entries(secretsFromThePublicKey)) {
      for (const alg of ['HS256', 'HS512']) {
        test(`${alg} signed with the public key as ${form}`, async () => {
          await expectRefused(await signWith(secretOf(publicJwk), { ...ours(), alg }))
        })
      }
    }

    test('signed by another Ed25519 key under our key id', async () => {
      await expectRefused(await signWith(foreign.privateKey, ours()))
    })

    test('signed by another key that its header embeds (jwk)', async () => {
      await expectRefused(await signWith(foreign.privateKey, { ...ours(), jwk: foreignJwk } as never))
    })

    for (const member of ['jku', 'x5u'] as const) {
      test(`signed by another key that the header points to (${member})`, async () => {
        const asked: string[] = []
        const elsewhere = Bun.serve({
          port: 0,
          fetch: (request) => {
            asked.push(request.url)
            return Response.json({ keys: [{ ...foreignJwk, kid: publicJwk.kid, alg: 'EdDSA', use: 'sig' }] })
          },
        })
        try {
          const url = `http://127.0.0.1:${elsewhere.port}/jwks.json`
          await expectRefused(await signWith(foreign.privateKey, { ...ours(), [member]: url } as never))
          expect(asked).toEqual([])
        } finally {
          await elsewhere.stop(true)
        }
      })
    }

    for (const kid of ['unknown', '', '../../../../dev/null', "' or 1=1 --", '00000000-0000-4000-8000-000000000000']) {
      test(`unknown key id "${kid}"`, async () => {
        await expectRefused(await signWith(foreign.privateKey, { ...ours(), kid } as never))
      })
    }

    test('no key id', async () => {
      await expectRefused(await signWith(foreign.privateKey, { alg: 'EdDSA', typ: 'at+jwt' } as never))
    })

    test('our header and payload with members in another order, or more of them, under the real signature', async () => {
      const { alg, typ, kid } = ours()
      for (const other of [
        { kid, typ, alg },
        { alg, typ, kid, crit: ['x'], x: 1 },
        { alg, typ: 'JWT', kid },
      ]) {
        await expectRefused(`${encode(other)}.${payload}.${signature}`)
      }
    })

    test('another payload under the real signature', async () => {
      for (const change of [{ sub: foreignJwk.x }, { exp: 4_102_444_800 }, { sid: ada.id }, { role: 'admin' }]) {
        await expectRefused(`${header}.${encode({ ...claims(), ...change })}.${signature}`)
      }
    })

    test('a signature of nothing, of zeros, of another token', async () => {
      const { token } = await world().login(ada)
      const others = ['', 'A', 'A'.repeat(86), Buffer.alloc(64).toString('base64url'), token.split('.')[2] as string]
      for (const other of others) await expectRefused(`${header}.${payload}.${other}`)
    })

    test('non-canonical spellings of the real signature', async () => {
      const spellings = spellingsOf(signature)
      // 64 bytes leave four bits of the last character unused.
      expect(spellings).toHaveLength(15)
      for (const spelling of spellings) {
        expect(Buffer.from(spelling, 'base64url')).toEqual(Buffer.from(signature, 'base64url'))
        await expectRefused(`${header}.${payload}.${spelling}`)
      }
    })

    test('other spellings of the real signature and payload: padded, or in the other base64 alphabet', async () => {
      for (const pad of ['=', '==']) {
        await expectRefused(`${header}.${payload}.${signature}${pad}`)
        await expectRefused(`${header}.${payload}${pad}.${signature}`)
        await expectRefused(`${header}${pad}.${payload}.${signature}`)
      }
      // A token whose signature has a character that the alphabets spell differently is soon found.
      let spelt = ada.token
      for (let tries = 0; tries < 40 && !/[-_]/.test(spelt.split('.')[2] as string); tries += 1) {
        const { body } = await world().post('/api/v1/auth/refresh', { refresh_token: ada.refreshToken })
        ada = { ...ada, token: body.access_token, refreshToken: body.refresh_token }
        spelt = body.access_token
      }
      const [head, middle, end] = spelt.split('.') as [string, string, string]
      const other = end.replaceAll('-', '+').replaceAll('_', '/')
      expect(other).not.toBe(end)
      expect((await ask(spelt)).status).toBe(200)
      await expectRefused(`${head}.${middle}.${other}`)
    })

    for (const [name, gap] of Object.entries({ 'a space': ' ', 'a tab': '\t', 'a no-break space': '\u00a0' })) {
      test(`${name} within`, async () => {
        for (const at of [
          5,
          header.length,
          header.length + 1,
          header.length + payload.length + 2,
          ada.token.length - 1,
        ]) {
          await expectRefused(ada.token.slice(0, at) + gap + ada.token.slice(at))
        }
      })
    }

    for (const [name, gap] of Object.entries({ 'a line feed': '\n', 'a folded line': '\r\n ', 'a NUL': '\0' })) {
      test(`${name} within: refused by us or already as HTTP`, async () => {
        for (const at of [5, header.length, ada.token.length - 1]) {
          const token = ada.token.slice(0, at) + gap + ada.token.slice(at)
          const answer = await sendRaw(world().subject.baseUrl, [
            headOf('GET', me, { authorization: `Bearer ${token}`, connection: 'close' }),
          ])
          expect([400, 401, undefined]).toContain(answer?.status)
        }
      })
    }

    test('more segments or fewer, or empty ones', async () => {
      const { token } = ada
      for (const other of [
        `${token}.`,
        `.${token}`,
        `${token}.${signature}`,
        `${token}..`,
        `${header}.${payload}`,
        `${header}..${signature}`,
        `.${payload}.${signature}`,
        header,
        '..',
        '...',
        '.',
      ]) {
        await expectRefused(other)
      }
    })

    test('the general JSON form of a JWS', async () => {
      const json = JSON.stringify({ payload, signatures: [{ protected: header, signature }] })
      await expectRefused(json)
    })

    test('no token, an empty one, another scheme, two of them', async () => {
      for (const given of ['', 'Bearer', 'Bearer ', `Basic ${ada.token}`, ada.token, `Bearer ${ada.token}, Bearer x`]) {
        const answer = await world().get(me, { headers: { authorization: given } })
        expect([given, refusal(answer)]).toEqual([given, '401 identity.not_signed_in'])
      }
      expect(refusal(await world().get(me))).toBe('401 identity.not_signed_in')
      expect(refusal(await world().get(`${me}?access_token=${ada.token}`))).toBe('401 identity.not_signed_in')
      expect(refusal(await world().get(me, { headers: { cookie: `access_token=${ada.token}` } }))).toBe(
        '401 identity.not_signed_in',
      )
    })

    test('the name of the scheme is taken in any case (RFC 9110 §11.1)', async () => {
      for (const scheme of ['bearer', 'BEARER']) {
        const { status } = await world().get(me, { headers: { authorization: `${scheme} ${ada.token}` } })
        expect([scheme, status]).toEqual([scheme, 200])
      }
    })

    test('a refresh token, an id, plain text', async () => {
      for (const other of [ada.refreshToken, ada.id, 'null', '{}', 'undefined', encode({}), 'é'.repeat(20)]) {
        const answer = await world().get(me, { headers: { authorization: `Bearer ${other}` } })
        expect(refusal(answer)).toBe('401 identity.not_signed_in')
      }
    })

    test('a signed text that is no JWT', async () => {
      for (const text of ['', 'null', '[]', '"x"', '{', '1']) {
        const token = await new CompactSign(Buffer.from(text)).setProtectedHeader(ours()).sign(foreign.privateKey)
        await expectRefused(token)
      }
    })

    test('100 KB: by us where the runtime lets it through, else by the runtime', async () => {
      for (const token of ['A'.repeat(100_000), `${header}.${'A'.repeat(100_000)}.${signature}`, '.'.repeat(100_000)]) {
        const { baseUrl, runtime } = world().subject
        if (runtime === 'bun') {
          await expectRefused(token)
          continue
        }
        const { status } = await fetch(baseUrl + me, { headers: { authorization: `Bearer ${token}` } })
        expect([400, 401, 413, 431]).toContain(status)
      }
    })

    test('every route says whether it needs a token, and refuses without one, or with a spoilt one, if it does', async () => {
      for (const route of routesOf(world().document)) {
        const body = sampleBodyOf(world().document, route)
        for (const headers of [{}, { authorization: `Bearer ${ada.token}A` }] as Record<string, string>[]) {
          const answer = await world().send(route.method as 'POST', targetOf(world().document, route), {
            headers: { ...headers, ...(body !== undefined && { 'content-type': 'application/json' }) },
            ...(body !== undefined && { body: JSON.stringify(body) }),
          })
          const isRefused = refusal(answer) === '401 identity.not_signed_in'
          expect([nameOf(route), isRefused]).toEqual([nameOf(route), route.operation.security.length > 0])
        }
      }
    })

    test('of a session that ended: by logout', async () => {
      const person = await world().login(ada)
      expect((await ask(person.token)).status).toBe(200)
      await world().post('/api/v1/auth/logout', undefined, { token: person.token })
      await expectRefused(person.token)
    })

    test('of a session that ended: while fifty requests use it, none that began after the answer gets through', async () => {
      const person = await world().login(ada)
      const { token } = person
      let ended = false
      const late: number[] = []
      const use = async () => {
        for (let count = 0; count < 20; count += 1) {
          const beganAfter = ended
          const { status } = await world().get(me, { token })
          if (beganAfter) late.push(status)
        }
      }
      const users = Array.from({ length: 10 }, use)
      await world().post('/api/v1/auth/logout', undefined, { token })
      ended = true
      await Promise.all([...users, use()])
      expect(late.length).toBeGreaterThan(10)
      expect(new Set(late)).toEqual(new Set([401]))
    })
  })
