import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createServer, type Server } from 'node:net'
import { toOcsf } from '../../src/siem/ocsf.ts'
import type { SiemSettings } from '../../src/siem/settings.ts'
import { framed, maxMessageBytes, toSyslog } from '../../src/siem/syslog.ts'
import { until } from '../faults/support.ts'
import { rsyslog, startRsyslog, type TestRsyslog } from '../harness/rsyslog.ts'
import { auditedEvent } from './events.ts'
import { runtimes, sendBy } from './send.ts'

const product = { name: 'Velro', version: '1.0.0' }
const header = { host: 'host.example', app: 'Velro', pid: 7 }
const ocsf = (over: Parameters<typeof auditedEvent>[0] = {}) => toOcsf(auditedEvent(over), 'a message', product)
const textOf = (message: Buffer) => message.toString().replace(/^\S+ \S+ \S+ \S+ \S+ \S+ - /, '')

describe('a message of syslog', () => {
  test('has the header of RFC 5424, and the event as JSON', () => {
    const message = toSyslog(ocsf(), header).toString()
    expect(message).toStartWith('<109>1 2026-11-30T21:00:00.123Z host.example Velro 7 project.changed - {"')
    expect(JSON.parse(textOf(Buffer.from(message)))).toEqual(JSON.parse(JSON.stringify(ocsf())))
  })

  test('has a header of printable ASCII within its limits, whatever the host and the product are called', () => {
    const long = { host: `h ö${'x'.repeat(300)}`, app: 'a'.repeat(60), pid: 1 }
    const event = ocsf({ action: `x.${'y'.repeat(50)}` })
    const [, , host = '', app = '', , id = ''] = toSyslog(event, long).toString().split(' ')
    expect([host.length, app.length, id.length]).toEqual([255, 48, 32])
    expect(host).toMatch(/^[\x21-\x7e]+$/)
    expect(toSyslog(event, { ...long, host: 'ö', app: ' ' }).toString()).toMatch(/^<\d+>1 \S+ - - 1 /)
  })

  test('has less than 8,096 bytes at any length of its values, stays JSON, and says that it was cut', () => {
    for (const unit of ['x', '€', '\u{1f600}', '"', '\n', '\u0000']) {
      for (const length of [1, 100, 1_000, 2_000, 3_500, 4_000, 8_000, 100_000]) {
        const values = Object.fromEntries(
          Array.from({ length: 20 }, (_, at) => [`field ${at}`, unit.repeat(length / 20)]),
        )
        const event = ocsf({
          before: values,
          after: { list: [unit.repeat(length), values] },
          userAgent: unit.repeat(length),
        })
        const message = toSyslog(event, header)
        expect(message.length).toBeLessThanOrEqual(maxMessageBytes)
        const read = JSON.parse(textOf(message))
        expect(read.metadata.uid).toBe(event.metadata.uid)
        expect(read.unmapped.chain).toEqual(event.unmapped.chain)
        const isWhole = Buffer.byteLength(JSON.stringify(event)) < 8_000
        expect(read.unmapped.cut).toBe(isWhole ? undefined : true)
        if (isWhole) expect(read.unmapped.before).toEqual(values)
      }
    }
  })

  test('is framed by the number of its bytes, not of its characters', () => {
    expect(framed(Buffer.from('a€')).toString()).toBe('4 a€')
  })
})

for (const runtime of runtimes) {
  describe.skipIf(rsyslog === undefined)(`a real rsyslog, from ${runtime}`, () => {
    for (const tls of [false, true]) {
      const over = tls ? 'TLS' : 'TCP'
      let receiver: TestRsyslog
      beforeAll(async () => {
        receiver = await startRsyslog({ tls })
      }, 20_000)
      afterAll(() => receiver?.stop())
      const settings = (more: Partial<Extract<SiemSettings, { kind: 'syslog' }>> = {}): SiemSettings => ({
        kind: 'syslog',
        host: '127.0.0.1',
        port: receiver.port,
        tls,
        caFile: tls ? receiver.caFile : undefined,
        ...more,
      })

      test(`gets every message of a batch over ${over} whole and in order, also those of the greatest length`, async () => {
        expect(await sendBy(runtime, settings(), 200)).toBe('sent')
        expect(await sendBy(runtime, settings(), 100, 20_000)).toBe('sent')
        await until(async () => (await receiver.messages()).length >= 300, 'the messages are written')
        const messages = await receiver.messages()
        expect(messages).toHaveLength(300)
        const read = messages.map(({ text }) => JSON.parse(text))
        expect(read.map(({ unmapped }) => unmapped.chain.sequence)).toEqual([
          ...Array.from({ length: 200 }, (_, at) => at + 1),
          ...Array.from({ length: 100 }, (_, at) => at + 1),
        ])
        expect(read[0]).toMatchObject({ class_uid: 3004, time: Date.parse('2026-11-30T21:00:00.123Z') })
        expect(messages[0]).toMatchObject({ priority: 109, app: 'Velro', id: 'project.changed' })
        expect(read.slice(200).every(({ unmapped }) => unmapped.cut === true)).toBe(true)
      }, 60_000)
    }

    test('that is not there, or whose certificate is not trusted, is a failure', async () => {
      const none = { kind: 'syslog', host: '127.0.0.1', port: 1, caFile: undefined } as const
      for (const tls of [false, true]) expect(await sendBy(runtime, { ...none, tls }, 1)).toStartWith('failed: ')
      const receiver = await startRsyslog({ tls: true })
      try {
        const { port } = receiver
        expect(await sendBy(runtime, { ...none, tls: true, port }, 1)).toStartWith('failed: ')
        expect(await receiver.messages()).toEqual([])
      } finally {
        await receiver.stop()
      }
    }, 60_000)
  })

  test(`a receiver that ends the connection early is a failure, from ${runtime}`, async () => {
    const rude: Server = createServer((socket) => {
      socket.once('data', () => socket.destroy())
      socket.on('error', () => {})
    })
    const port = await new Promise<number>((resolve) =>
      rude.listen(0, '127.0.0.1', () => resolve((rude.address() as { port: number }).port)),
    )
    try {
      const settings = { kind: 'syslog', host: '127.0.0.1', port, tls: false, caFile: undefined } as const
      // More than the buffers of both sides hold.
      expect(await sendBy(runtime, settings, 3_000, 5_000)).toStartWith('failed: ')
    } finally {
      rude.close()
    }
  }, 60_000)
}
