import { describe, expect, test } from 'bun:test'
import { Fault } from '../../src/fault.ts'
import { createFormReader } from '../../src/media/uploads/form.ts'

const boundary = '----WebKitFormBoundaryAbC123'
const contentType = `multipart/form-data; boundary=${boundary}`

type Part = { headers: string[]; body: string | Uint8Array }
const file = (body: string | Uint8Array, name = 'a.png', type = 'image/png'): Part => ({
  headers: [`Content-Disposition: form-data; name="file"; filename="${name}"`, `Content-Type: ${type}`],
  body,
})
const field = (name: string, body: string): Part => ({
  headers: [`Content-Disposition: form-data; name="${name}"`],
  body,
})

const encode = (parts: readonly Part[], end = `--${boundary}--\r\n`): Uint8Array =>
  Buffer.concat([
    ...parts.flatMap(({ headers, body }) => [
      Buffer.from(`--${boundary}\r\n${headers.join('\r\n')}\r\n\r\n`, 'latin1'),
      Buffer.from(body as string, 'latin1'),
      Buffer.from('\r\n'),
    ]),
    Buffer.from(end),
  ])

/** The file of a form that arrives in pieces of this length, or the code of its refusal. */
const read = async (bytes: Uint8Array, { piece = 65_536, maxBytes = 1_000, type = contentType } = {}) => {
  const got: Uint8Array[] = []
  try {
    const form = createFormReader(type, { maxBytes, onBytes: (found) => void got.push(Uint8Array.from(found)) })
    for (let at = 0; at < bytes.length; at += piece) {
      form.write(bytes.subarray(at, at + piece))
      if (at % 7 === 0) await Promise.resolve()
    }
    const { isTooLarge, type: named } = await form.end()
    return { type: named, isTooLarge, text: Buffer.concat(got).toString('latin1') }
  } catch (error) {
    return error instanceof Fault ? error.code : String(error)
  }
}

const picture = 'PNG\r\n--\r\n------WebKitFormBoundary\x00\xff\r\n--'

describe('the file of a form', () => {
  test('is the same in whatever pieces the form arrives', async () => {
    const form = encode([field('title', 'a\r\nb'), file(picture), field('submit', 'Send')])
    for (let piece = 1; piece <= form.length; piece += 1) {
      const found = await read(form, { piece })
      if (!Bun.deepEquals(found, { type: 'image/png', isTooLarge: false, text: picture }))
        expect([piece, found]).toEqual([piece, { type: 'image/png', isTooLarge: false, text: picture }])
    }
  })

  test('may have a name in any encoding, and any field name', async () => {
    for (const name of [
      'café.png',
      'caf\xe9.png',
      '"; x="',
      '../../etc/passwd',
      '%00',
      'a'.repeat(500),
      Buffer.from('\u{1f600}.png').toString('latin1'),
    ]) {
      const found = await read(encode([file(picture, name.replaceAll('"', '%22'))]))
      expect([name, (found as { text: string }).text]).toEqual([name, picture])
    }
    const other = {
      ...file(picture),
      headers: ['content-disposition: form-data; name=x; filename=y', 'content-type: image/webp'],
    }
    expect(await read(encode([other]))).toMatchObject({ type: 'image/webp', text: picture })
  })

  test('has no type where its part names none, or only that it is bytes', async () => {
    expect(await read(encode([file(picture, 'a', 'application/octet-stream')]))).toMatchObject({ type: undefined })
    const [disposition = ''] = file('').headers
    expect(await read(encode([{ headers: [disposition], body: picture }]))).toMatchObject({ text: picture })
  })

  test('is found beside a file that was not chosen, which has neither name nor bytes', async () => {
    const none = file('', '', 'application/octet-stream')
    for (const parts of [
      [none, file(picture)],
      [file(picture), none],
      [none, file(picture), none],
    ])
      expect(await read(encode(parts))).toMatchObject({ type: 'image/png', text: picture })
    expect(await read(encode([none]))).toBe('request.invalid')
  })

  test('may be empty or just as long as allowed, and not longer', async () => {
    expect(await read(encode([file('')]))).toEqual({ type: 'image/png', isTooLarge: false, text: '' })
    for (const piece of [1, 100, 65_536]) {
      expect(await read(encode([file('x'.repeat(1_000))]), { piece })).toMatchObject({ isTooLarge: false })
      expect(await read(encode([file('x'.repeat(1_001))]), { piece })).toMatchObject({ isTooLarge: true })
    }
  })

  test('may be followed by anything after the end of the form', async () => {
    for (const end of [`--${boundary}--`, `--${boundary}--\r\n`, `--${boundary}--\r\n\r\nepilogue\r\n`]) {
      for (const piece of [1, 10, 65_536])
        expect([end, await read(encode([file(picture)], end), { piece })]).toEqual([
          end,
          { type: 'image/png', isTooLarge: false, text: picture },
        ])
    }
  })
})

describe('a form is refused', () => {
  test.each([
    ['without a file', encode([field('a', 'b')]), 'request.invalid'],
    ['without parts', encode([]), 'request.invalid'],
    ['with two files', encode([file('a'), file('b')]), 'request.invalid'],
    ['with more than 32 parts', encode([...Array(40).fill(field('a', 'b')), file('a')]), 'request.invalid'],
    ['that is empty', new Uint8Array(), 'request.malformed'],
    ['that breaks off in a file', encode([file(picture)], '').subarray(0, -10), 'request.malformed'],
    ['that breaks off before its end', encode([file(picture)], ''), 'request.malformed'],
    ['that breaks off in a header', encode([file(picture)]).subarray(0, 60), 'request.malformed'],
    ['of another boundary', Buffer.from('--x\r\n\r\n--x--'), 'request.malformed'],
  ] as const)('%s', async (_, bytes, code) => {
    for (const piece of [1, 65_536]) expect(await read(bytes, { piece })).toBe(code)
  })

  test('whose Content-Type names no boundary', async () => {
    for (const type of ['multipart/form-data', 'multipart/form-data; boundary=', 'multipart/form-data; x=y'])
      expect([type, await read(encode([file(picture)]), { type })]).toEqual([type, 'request.malformed'])
  })

  test('with headers or fields that do not end, after a bounded part of them', async () => {
    const endless = Buffer.concat([Buffer.from(`--${boundary}\r\nX: `), Buffer.alloc(500_000, 0x61)])
    expect(await read(endless, { piece: 4_096 })).toBe('request.malformed')
    const long = encode([field('a', 'b'.repeat(200_000)), file(picture)])
    expect(await read(long, { piece: 4_096 })).toMatchObject({ text: picture })
  })
})
