import { createHash } from 'node:crypto'
import { cellHash, createChance } from './arithmetic.ts'
import { bestMatches, choosePalette, paletteOf } from './palette.ts'
import { folds, ridges, type SceneMaker, sheets, world } from './scenes.ts'

export type RendererRequest = {
  readonly prompt: string
  readonly negative_prompt?: string
  readonly seed: number
  readonly width: number
  readonly height: number
  /** Pixels of a reference image, three bytes each. The palette is taken from them instead of from the prompt. */
  readonly colours?: Uint8Array
}

/** Words that select a scene, and the scene. `ridges` is listed twice, so it is chosen more often. */
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
 * Renders an image from noise, a palette and a scene, all chosen by the prompt and the seed, without a model. Returns three
 * bytes for each pixel, row by row.
 *
 * Promise: deterministic: equal requests give equal bytes on every engine, and another size shows the same scene. `onBand` is
 * called after every 16 rows with the completed fraction; throwing from it ends the work.
 */
export const renderImage = (request: RendererRequest, onBand: (fraction: number) => void): Uint8Array => {
  const { prompt, negative_prompt = '', seed, width, height } = request
  const hash = createHash('sha256')
    .update(JSON.stringify([prompt, negative_prompt, seed]))
    .digest()
  const chance = createChance(hash.readUInt32LE(0))
  // Always chosen, to advance the generator: a reference image changes the colours and not the scene.
  const promptPalette = choosePalette(prompt, negative_prompt, chance)
  const palette = request.colours === undefined ? promptPalette : paletteOf(request.colours)
  const [, make] = chance.pick(bestMatches(scenes, prompt, negative_prompt))
  const shortSide = Math.min(width, height)
  const extent = { x: width / shortSide / 2, y: height / shortSide / 2 }
  const scene = make(palette, createChance(hash.readUInt32LE(4)), extent)
  const grainSeed = hash.readInt32LE(8)

  const pixels = new Uint8Array(width * height * 3)
  const out = new Float64Array(3)
  const corner = extent.x * extent.x + extent.y * extent.y
  for (let row = 0; row < height; row += 1) {
    const y = (row + 0.5 - height / 2) / shortSide
    for (let column = 0; column < width; column += 1) {
      const x = (column + 0.5 - width / 2) / shortSide
      scene(x, y, 1 / shortSide, out)
      const vignette = 1 - (0.3 * (x * x + y * y)) / corner
      // Grain hides the banding of eight-bit gradients.
      const grain = (cellHash(column, row, grainSeed) - 0.5) * 2.4
      for (let channel = 0; channel < 3; channel += 1) {
        const light = (out[channel] as number) * vignette
        // Bright light is compressed towards white instead of clipped.
        const compressed = light <= 0.8 ? Math.max(0, light) : 1 - 0.04 / (light - 0.6)
        pixels[(row * width + column) * 3 + channel] = Math.min(
          255,
          Math.max(0, Math.sqrt(compressed) * 255 + grain + 0.5),
        )
      }
    }
    if ((row + 1) % rowsInBand === 0) onBand((row + 1) / height)
  }
  return pixels
}
