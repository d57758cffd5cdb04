import { expect, test } from 'bun:test'
import { allInOrder } from '../../src/kit/async.ts'

test('work sent together starts in order, also where it begins only when it is awaited', async () => {
  const started: number[] = []
  const lazy = {
    // biome-ignore lint/suspicious/noThenProperty: statements of the driver are like that
    then: (resolve: (value: string) => void) => {
      started.push(1)
      resolve('one')
    },
  }
  const eager = async () => {
    await Promise.resolve()
    started.push(2)
    return 'two'
  }
  expect(await allInOrder([() => lazy, eager])).toEqual(['one', 'two'])
  expect(started).toEqual([1, 2])
})

test('work sent together rejects with the error of the first by position, whichever fails first', async () => {
  const { promise, reject } = Promise.withResolvers<never>()
  const together = allInOrder([() => promise, () => Promise.reject(new Error('behind'))])
  await Promise.resolve()
  reject(new Error('ahead'))
  await expect(together).rejects.toThrow('ahead')
})

test('work that awaits its statement sends it before work behind it that passes its own on', async () => {
  const sent: string[] = []
  // As a statement of the driver: sent one microtask after it is awaited.
  const statement = (name: string): PromiseLike<string> => ({
    // biome-ignore lint/suspicious/noThenProperty: it stands for a lazy query.
    then: (resolve, reject) =>
      Promise.resolve()
        .then(() => void sent.push(name))
        .then(() => name)
        .then(resolve, reject),
  })
  const awaits = async (name: string) => {
    await statement(name)
  }
  const passesOn = (name: string) => new Promise((resolve) => void statement(name).then(resolve))
  await allInOrder([() => awaits('first'), () => passesOn('second'), () => awaits('third'), () => passesOn('fourth')])
  expect(sent).toEqual(['first', 'second', 'third', 'fourth'])
})
