import { describe, expect, test } from 'bun:test'
import { createEventStream, formatEvent, formatRetry } from '../../src/kit/event-stream.ts'

const decoder = new TextDecoder()

const start = () => {
  const seen = { ready: 0, gone: 0 }
  const count = (what: keyof typeof seen) => () => {
    seen[what] += 1
  }
  const stream = createEventStream({ onReady: count('ready'), onDisconnect: count('gone') })
  return { stream, seen, reader: stream.body.getReader() }
}

describe('server-sent events', () => {
  test('are formatted as WHATWG specifies, with data on one line', () => {
    expect(formatEvent('status', 'a.1', { text: 'one\ntwo\r\n\n' })).toBe(
      'event: status\nid: a.1\ndata: {"text":"one\\ntwo\\r\\n\\n"}\n\n',
    )
    expect(formatRetry(1_000.7)).toBe('retry: 1001\n\n')
  })

  test('are accepted one at a time, each after the client has read the one before, so nothing is buffered', async () => {
    const { stream, seen, reader } = start()
    await Promise.resolve()
    expect([stream.isReady, stream.write('early'), seen.ready]).toEqual([false, false, 0])
    const first = reader.read()
    expect([stream.isReady, seen.ready]).toEqual([true, 1])
    expect([stream.write('one'), stream.isReady, stream.write('two')]).toEqual([true, false, false])
    expect(decoder.decode((await first).value)).toBe('one')
    const second = reader.read()
    await Promise.resolve()
    expect(stream.write('three')).toBe(true)
    expect(decoder.decode((await second).value)).toBe('three')
  })

  test('can be ended twice, and refuse writes after the end', async () => {
    const { stream, seen, reader } = start()
    await Promise.resolve()
    const last = reader.read()
    expect(stream.write('last')).toBe(true)
    stream.end()
    stream.end()
    expect([stream.isReady, stream.write('late')]).toEqual([false, false])
    expect(decoder.decode((await last).value)).toBe('last')
    expect((await reader.read()).done).toBe(true)
    expect(seen.gone).toBe(0)
  })

  test('report that the client disconnected, and refuse writes after that', async () => {
    const { stream, seen, reader } = start()
    await reader.cancel()
    expect([seen.gone, stream.isReady, stream.write('x')]).toEqual([1, false, false])
    stream.end()
    expect(seen.gone).toBe(1)
  })
})
