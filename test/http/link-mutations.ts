import { newId } from '../../src/kit/id.ts'
import { createRandom } from '../access/random.ts'

const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'

/** An endless sequence of mutations of a link, the likeliest attacks first. May repeat mutations and the link itself. */
export function* mutationsOf(target: string, others: readonly string[], mediaId: string): Generator<string> {
  const { below } = createRandom(7)
  const character = () => String.fromCharCode(33 + below(94))
  const replaced = (at: number, text: string, length = 1) => target.slice(0, at) + text + target.slice(at + length)
  const hex = (at: number) => target.charCodeAt(at).toString(16)
  const [path = '', token = ''] = target.split('signature=')
  const withToken = (text: string) => `${path}signature=${text}`
  for (let at = 0; at < target.length; at += 1) {
    for (let bit = 0; bit < 8; bit += 1) yield replaced(at, String.fromCharCode(target.charCodeAt(at) ^ (1 << bit)))
  }
  const bytes = Buffer.from(token, 'base64url')
  for (let bit = 0; bit < bytes.length * 8; bit += 1) {
    const flipped = Buffer.from(bytes)
    flipped[bit >> 3] = (flipped[bit >> 3] as number) ^ (1 << (bit & 7))
    yield withToken(flipped.toString('base64url'))
  }
  for (let at = 0; at < token.length; at += 1) {
    for (const one of alphabet) yield withToken(token.slice(0, at) + one + token.slice(at + 1))
  }
  for (let at = 1; at < target.length; at += 1) {
    yield target.slice(0, at)
    yield replaced(at, '')
    yield replaced(at, target[at]?.toUpperCase() ?? '')
    yield replaced(at, target[at]?.toLowerCase() ?? '')
    yield replaced(at, `%${hex(at)}`)
    yield replaced(at, `%${hex(at).toUpperCase()}`)
    yield replaced(at, `%25${hex(at)}`)
    for (let to = at + 1; to < target.length; to += 7) {
      yield target.slice(0, at) + target[to] + target.slice(at + 1, to) + target[at] + target.slice(to + 1)
    }
  }
  for (let at = 0; at < bytes.length; at += 1) {
    yield withToken(bytes.subarray(at).toString('base64url'))
    yield withToken(bytes.subarray(0, at).toString('base64url'))
    yield withToken(Buffer.concat([bytes, Buffer.alloc(at + 1)]).toString('base64url'))
    yield withToken(Buffer.concat([bytes.subarray(at), bytes.subarray(0, at)]).toString('base64url'))
  }
  for (const one of [
    ...alphabet,
    '=',
    '==',
    '===',
    '+',
    '/',
    '%00',
    '%0A',
    '%20',
    '.',
    '~',
    '&',
    '&x=1',
    '&signature=',
  ]) {
    yield target + one
    yield withToken(one + token)
    yield `${path}${one}signature=${token}`
  }
  yield withToken(bytes.toString('base64'))
  yield withToken(bytes.toString('hex'))
  yield withToken(token.toLowerCase())
  yield withToken(token.toUpperCase())
  yield withToken([...token].toReversed().join(''))
  yield `${target}&signature=${token}`
  yield `${path}share=${token}`
  yield `${path}Signature=${token}`
  yield `${path}signature[]=${token}`
  yield `${path}%73ignature=${token}`
  yield `${path}share=&signature=${token}`
  yield `${path}variant=original&signature=${token}`
  yield `${path.replace('?', '/?')}signature=${token}`
  yield `${path.replace('content', '%63ontent')}signature=${token}`
  for (const other of others) {
    const [otherPath = '', otherToken = ''] = other.split('signature=')
    if (otherPath !== path) {
      yield otherPath + target.slice(path.length)
      yield withToken(otherToken)
    }
    const otherBytes = Buffer.from(otherToken, 'base64url')
    for (let at = 1; at < bytes.length; at += 1) {
      yield withToken(Buffer.concat([bytes.subarray(0, at), otherBytes.subarray(at)]).toString('base64url'))
      yield withToken(Buffer.concat([otherBytes.subarray(0, at), bytes.subarray(at)]).toString('base64url'))
    }
  }
  for (;;) {
    let text = target
    for (let times = 1 + below(3); times > 0; times -= 1) {
      const at = 1 + below(text.length - 1)
      const changed = [
        () => text.slice(0, at) + character() + text.slice(at + 1),
        () => text.slice(0, at) + character() + text.slice(at),
        () => text.slice(0, at) + text.slice(at + 1 + below(3)),
        () => text.replace(token, withToken(alphabet[below(64)] + token.slice(1)).slice(path.length + 10)),
        () => `${text.slice(0, -1)}${alphabet[below(64)]}`,
        () => text.replace(mediaId, newId()),
      ][below(6)]
      text = changed?.() ?? text
    }
    yield text
  }
}
