import { describe, expect, test } from 'bun:test'
import { dispatch, encodeMessage, type TopicListeners, type TopicName } from '../../src/access/invalidation/topics.ts'

/** Listens to every topic and keeps what arrives. */
const listenToAll = () => {
  const received: { topic: TopicName; message: object }[] = []
  const receive = (topic: TopicName) => (message: object) => void received.push({ topic, message })
  const listeners: Required<TopicListeners> = {
    event: receive('event'),
    heartbeat: receive('heartbeat'),
    acknowledgement: receive('acknowledgement'),
    leave: receive('leave'),
    confirmed: receive('confirmed'),
    progress: receive('progress'),
    job: receive('job'),
    cancelled: receive('cancelled'),
    limit_lifted: receive('limit_lifted'),
    orphans: receive('orphans'),
  }
  return { received, listeners }
}

describe('a message on the bus', () => {
  test.each([
    [
      'event',
      { id: '7', writer: 'i1', position: 12, keys: ['project:p', 'account:a'] },
      'event 7 i1 * 2 12 project:p account:a',
    ],
    ['event', { id: '7', writer: undefined, position: 12, keys: [] }, 'event 7 - * 2 12'],
    ['event', { id: '7', writer: 'i1', position: 12, keys: 'stored' }, 'event 7 i1 * 2 12 *'],
    ['event', { id: '7', writer: 'i1', position: undefined, keys: 'stored' }, 'event 7 i1 *'],
    [
      'heartbeat',
      { instance: 'i1', heartbeatId: '1.2', seen: { identity: 'a1-4000-1-6b', position: 12 } },
      'beat i1 1.2 2 a1-4000-1-6b 12',
    ],
    ['heartbeat', { instance: 'i1', heartbeatId: '1.2', seen: undefined }, 'beat i1 1.2'],
    ['acknowledgement', { instance: 'i1', eventIds: ['7', '8'] }, 'ack i1 7 8'],
    ['leave', { instance: 'i1' }, 'bye i1'],
    ['confirmed', { epoch: '0f', eventIds: ['7', '8'] }, 'confirmed 0f 7 8'],
    ['progress', { generationId: 'g', attempt: 2, fraction: 0.25 }, 'progress g 2 0.25'],
    ['job', {}, 'job'],
    ['cancelled', { generationId: 'g' }, 'cancelled g'],
    ['limit_lifted', { budget: 'api', key: 'a b' }, 'lifted api a%20b'],
    ['orphans', {}, 'orphans'],
  ] as const)('of the topic %s is parsed to the value it was encoded from: %j', (topic, message, payload) => {
    const { received, listeners } = listenToAll()
    expect(encodeMessage(topic, message as never)).toBe(payload)
    dispatch(listeners, payload)
    expect(received).toEqual([{ topic, message }])
  })

  test.each([
    'event 7 i1 project:p account:a',
    'event 7 i1 * 1 12 project:p',
    'event 7 i1 * 3 x y z',
    'event 7 i1 * 2 twelve project:p',
  ])('that is an event of another version is read from its row: "%s"', (payload) => {
    const { received, listeners } = listenToAll()
    dispatch(listeners, payload)
    expect(received).toEqual([
      { topic: 'event', message: { id: '7', writer: 'i1', position: undefined, keys: 'stored' } },
    ])
  })

  test.each(['beat i1 1.2', 'beat i1 1.2 3 x y', 'beat i1 1.2 2', 'beat i1 1.2 2 a1-4000-1-6b', 'beat i1 1.2 2 a1 x'])(
    'that is a heartbeat of another version shows nothing of the database: "%s"',
    (payload) => {
      const { received, listeners } = listenToAll()
      dispatch(listeners, payload)
      expect(received).toEqual([
        { topic: 'heartbeat', message: { instance: 'i1', heartbeatId: '1.2', seen: undefined } },
      ])
    },
  )

  test.each([
    '',
    'hello',
    'constructor x',
    '__proto__ x',
    'event',
    'beat',
    'beat i1',
    'ack',
    'bye',
    'confirmed',
    'progress g',
    'progress g 1',
    'progress g 1 2',
    'progress g 1 NaN',
    'progress g x 0.5',
    'cancelled',
  ])('that is malformed or of no topic is ignored: "%s"', (payload) => {
    const { received, listeners } = listenToAll()
    dispatch(listeners, payload)
    expect(received).toEqual([])
  })
})
