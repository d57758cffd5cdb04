import type { Clock } from '../../kit/clock.ts'
import { createDeadline } from '../../kit/deadline.ts'
import type { Images } from '../../media/images/images.ts'
import type { Order, Output, Provider } from '../provider.ts'

/** For one picture, the wait for a worker included; the signal of an attempt ends it sooner. */
const renderMs = 300_000
const seeds = 2 ** 32

const numberOf = ({ parameters }: Order, name: string): number => Number(parameters[name])

/** Draws on this machine, one picture after the other, each by a seed of its own: the first by that of the order. */
export const createLocalProvider = ({ images, clock }: { images: Pick<Images, 'render'>; clock: Clock }): Provider => ({
  name: 'local',
  generate: async (order, { signal, onProgress }) => {
    const made: Output[] = []
    while (made.length < order.outputs) {
      const done = made.length
      const bytes = await images.render(
        {
          prompt: order.prompt,
          negative_prompt: order.negativePrompt,
          seed: (numberOf(order, 'seed') + done) % seeds,
          width: numberOf(order, 'width'),
          height: numberOf(order, 'height'),
          ...(order.reference && { reference: order.reference.bytes }),
          format: order.parameters['format'] === 'png' ? 'png' : 'webp',
        },
        createDeadline(clock, renderMs),
        { signal, onProgress: (fraction) => onProgress((done + fraction) / order.outputs) },
      )
      made.push({ bytes })
    }
    return made
  },
})
