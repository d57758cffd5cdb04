import { describe, expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { createBodyReader } from '../../src/media/uploads/body.ts'
import { until } from '../faults/support.ts'

const windowMs = 5_000
const maxBytes = 30_000_000

const createWorld = (state: { othersWait: boolean } = { othersWait: false }) => {
  const clock = manualClock()
  const readBody = createBodyReader({
    startDeadline: createDeadlines(clock),
    maxBytes,
    othersWait: () => state.othersWait,
  })
  const upload = ({ announced, slot = Promise.resolve() }: { announced?: number; slot?: Promise<void> } = {}) => {
    let asksForSlot = false
    let pulled = 0
    let sent = 0
    let push = (_: number) => {}
    let end = () => {}
    const body = new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          push = (bytes) => {
            controller.enqueue(new Uint8Array(bytes).fill(7))
            sent += 1
          }
          end = () => controller.close()
        },
        pull: () => {
          pulled += 1
        },
      },
      { highWaterMark: 0 },
    )
    const request = new Request('http://localhost/', {
      method: 'POST',
      body,
      ...(announced !== undefined && { headers: { 'content-length': String(announced) } }),
    })
    const result = readBody(request, () => {
      asksForSlot = true
      return slot
    }).then(
      (read) => read?.bytes.length ?? 'too large',
      (error: { code?: string }) => error.code ?? String(error),
    )
    return {
      result,
      end: () => end(),
      /** Resolves once the bytes are read. */
      send: async (bytes: number) => {
        const before = pulled
        push(bytes)
        await until(() => pulled > before, `chunk ${sent} is read`)
      },
      asksForSlot: () => asksForSlot,
    }
  }
  /** An upload that has its slot. */
  const startUpload = async () => {
    const one = upload()
    await one.send(20_000)
    await until(() => one.asksForSlot(), 'it asks for a slot')
    return one
  }
  /** Lets a window end, and the readers notice it. */
  const endWindow = async () => {
    clock.advance(windowMs)
    await Bun.sleep(60)
  }
  return { upload, startUpload, endWindow }
}

describe('the body of an upload', () => {
  test('asks for a slot only once bytes flow, and is not read while it waits', async () => {
    const { upload, endWindow } = createWorld()
    const slot = Promise.withResolvers<void>()
    const one = upload({ slot: slot.promise })
    await one.send(1_000)
    expect(one.asksForSlot()).toBe(false)
    void one.send(20_000)
    await until(() => one.asksForSlot(), 'it asks for a slot')
    // Its wait makes it no slower.
    await endWindow()
    slot.resolve()
    await one.send(1_000)
    one.end()
    expect(await one.result).toBe(22_000)
  })

  test('that is shorter than its opening gets a slot when it is complete', async () => {
    const { upload } = createWorld()
    const one = upload({ announced: 2_000 })
    await one.send(2_000)
    one.end()
    expect([await one.result, one.asksForSlot()]).toEqual([2_000, true])
  })

  test('is refused when it sends less than its opening in one window, without a slot', async () => {
    const { upload, endWindow } = createWorld()
    const one = upload()
    await one.send(16_000)
    await endWindow()
    expect([await one.result, one.asksForSlot()]).toEqual(['media.too_slow', false])
  })

  test('is refused at the end of the first window below 32 KiB a second', async () => {
    const { startUpload, endWindow } = createWorld()
    const one = await startUpload()
    for (const bytes of [163_840, 163_840]) {
      await one.send(bytes)
      await endWindow()
    }
    await one.send(163_839)
    await endWindow()
    expect(await one.result).toBe('media.too_slow')
  })

  test('is refused after 60 seconds, however fast it is', async () => {
    const { startUpload, endWindow } = createWorld()
    const one = await startUpload()
    for (let window = 0; window < 12; window += 1) {
      await one.send(1_000_000)
      await endWindow()
    }
    expect(await one.result).toBe('media.too_slow')
  })

  test('that is the slowest gives way while others wait, and only that', async () => {
    const state = { othersWait: true }
    const { startUpload, endWindow } = createWorld(state)
    const slow = await startUpload()
    const slower = await startUpload()
    await slow.send(300_000)
    await slower.send(200_000)
    await endWindow()
    expect(await slower.result).toBe('media.too_slow')
    state.othersWait = false
    await slow.send(300_000)
    await endWindow()
    slow.end()
    expect(await slow.result).toBe(620_000)
  })

  test('that the largest upload could keep to within a minute gives way to none', async () => {
    const { startUpload, endWindow } = createWorld({ othersWait: true })
    const one = await startUpload()
    for (let window = 0; window < 3; window += 1) {
      await one.send(2_500_000)
      await endWindow()
    }
    one.end()
    expect(await one.result).toBe(7_520_000)
  })

  test('over the limit is undefined, and a body that differs from its Content-Length is no image', async () => {
    const { upload } = createWorld()
    expect(await upload({ announced: maxBytes + 1 }).result).toBe('too large')
    const short = upload({ announced: 30_000 })
    await short.send(20_000)
    short.end()
    expect(await short.result).toBe('request.malformed')
  })
})
