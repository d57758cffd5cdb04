import type { Clock } from '../../kit/clock.ts'
import { createDeadlines } from '../../kit/deadline.ts'
import type { Images } from '../../media/images/images.ts'
import type { Order, Output, Provider } from '../provider.ts'

/** Limit for one image, including the wait for a worker. The signal of the attempt ends it earlier. */
const renderMs = 300_000
const seedCount = 2 ** 32

const numberOf = ({ parameters }: Order, name: string): number => Number(parameters[name])

/** Renders images on this machine, one after the other. The first uses the seed of the order, each further image the next seed. */
export const createLocalProvider = ({ images, clock }: { images: Pick<Images, 'render'>; clock: Clock }): Provider => ({
  name: 'local',
  digitalSource: 'algorithmicMedia',
  generate: async (order, { signal, onProgress }) => {
    const outputs: Output[] = []
    while (outputs.length < order.outputs) {
      const done = outputs.length
      const bytes = await images.render(
        {
          prompt: order.prompt,
          negative_prompt: order.negativePrompt,
          seed: (numberOf(order, 'seed') + done) % seedCount,
          width: numberOf(order, 'width'),
          height: numberOf(order, 'height'),
          ...(order.reference && { reference: order.reference.bytes }),
          format: order.parameters['format'] === 'png' ? 'png' : 'webp',
        },
        createDeadlines(clock)(renderMs),
        { signal, onProgress: (fraction) => onProgress((done + fraction) / order.outputs) },
      )
      outputs.push({ bytes })
    }
    return outputs
  },
})
