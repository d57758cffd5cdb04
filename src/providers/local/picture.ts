import { createHash } from 'node:crypto'
import { createChance, scatter } from './arithmetic.ts'
import { calledFor, choosePalette, paletteOf } from './palette.ts'
import { folds, ridges, type SceneMaker, sheets, world } from './scenes.ts'

export type PictureRequest = {
  readonly prompt: string
  readonly negative_prompt?: string
  readonly seed: number
  readonly width: number
  readonly height: number
  /** Pixels of another picture, three bytes each, that it takes its colours from instead of from the words. */
  readonly colours?: Uint8Array
}

/** Words that call for it; a scene that is there more than once comes more often. */
const scenes: readonly (readonly [words: string, make: SceneMaker])[] = [
  [
    'mountain landscape lighthouse sea ocean lake sunset sunrise dusk dawn forest desert valley hill island coast',
    ridges,
  ],
  ['mist fog winter snow autumn castle house village road bridge city bird ship boat sky cloud tree river', ridges],
  ['silk smoke fluid liquid marble cloth wave abstract portrait face flower fire dream texture fabric', folds],
  ['paper map topographic pattern layer cut minimal poster illustration logo geometric contour', sheets],
  ['planet space galaxy star moon cosmic universe nebula alien rocket astronaut orbit world', world],
]

const rowsInBand = 16

/**
 * A picture made of noise, a palette and a scene that follow from the words and the seed: no model has seen the prompt.
 * Three bytes a pixel, row after row.
 *
 * Promise: the same request gives the same bytes on every engine; another size shows the same scene. `onBand` is called
 * after every few rows with how much is done, and ends the work by throwing.
 */
export const drawPicture = (request: PictureRequest, onBand: (fraction: number) => void): Uint8Array => {
  const { prompt, negative_prompt = '', seed, width, height } = request
  const hash = createHash('sha256')
    .update(JSON.stringify([prompt, negative_prompt, seed]))
    .digest()
  const chance = createChance(hash.readUInt32LE(0))
  // Chosen in any case: the same words and seed are the same scene, in whatever colours.
  const called = choosePalette(prompt, negative_prompt, chance)
  const palette = request.colours === undefined ? called : paletteOf(request.colours)
  const [, make] = chance.pick(calledFor(scenes, prompt, negative_prompt))
  const nearer = Math.min(width, height)
  const extent = { x: width / nearer / 2, y: height / nearer / 2 }
  const scene = make(palette, createChance(hash.readUInt32LE(4)), extent)
  const grainSeed = hash.readInt32LE(8)

  const pixels = new Uint8Array(width * height * 3)
  const out = new Float64Array(3)
  const corner = extent.x * extent.x + extent.y * extent.y
  for (let row = 0; row < height; row += 1) {
    const y = (row + 0.5 - height / 2) / nearer
    for (let column = 0; column < width; column += 1) {
      const x = (column + 0.5 - width / 2) / nearer
      scene(x, y, 1 / nearer, out)
      const vignette = 1 - (0.3 * (x * x + y * y)) / corner
      // Grain hides the steps that eight bits would show in a sky.
      const grain = (scatter(column, row, grainSeed) - 0.5) * 2.4
      for (let channel = 0; channel < 3; channel += 1) {
        const light = (out[channel] as number) * vignette
        // Bright light is bent towards white and not cut off.
        const bent = light <= 0.8 ? Math.max(0, light) : 1 - 0.04 / (light - 0.6)
        pixels[(row * width + column) * 3 + channel] = Math.min(255, Math.max(0, Math.sqrt(bent) * 255 + grain + 0.5))
      }
    }
    if ((row + 1) % rowsInBand === 0) onBand((row + 1) / height)
  }
  return pixels
}
