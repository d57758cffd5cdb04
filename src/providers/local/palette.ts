import type { Chance } from './arithmetic.ts'

/** Red, green and blue from 0 to 1, squared (approximately linear light), so that light can be added. */
export type Colour = readonly [number, number, number]

/** The colours of a scene: `high` to `low` are the sky from top to horizon, `dark` the foreground, `light` the light source. */
export type Palette = {
  readonly high: Colour
  readonly middle: Colour
  readonly low: Colour
  readonly dark: Colour
  readonly light: Colour
  readonly night: boolean
}

const colour = (hex: string): Colour => {
  const channel = (from: number) => Number.parseInt(hex.slice(from, from + 2), 16) / 255
  const [red, green, blue] = [channel(0), channel(2), channel(4)]
  return [red * red, green * green, blue * blue]
}

/** Words that select a palette, then its colours: high, middle, low, dark, light. */
const knownPalettes: readonly (readonly [words: string, colours: string])[] = [
  ['dusk sunset evening twilight lighthouse', '2b2a5c 8a4b86 f29c7a 1b1838 ffe3b3'],
  ['dawn sunrise morning spring pink', '7fa8d9 f3c6c6 ffe1c4 3b4a6b fff6e0'],
  ['night moon dark midnight stars', '070b1e 14264d 35598a 04060f e8efff'],
  ['sea ocean water lake river blue harbour harbor', '1f6f9f 6fb8cf d8efe6 0c2f47 fffbe6'],
  ['forest green tree jungle moss garden', '7fa99b bfd3b4 eef0d2 14302a fff7cf'],
  ['desert sand dune gold summer warm', 'd98e5f f2c08a fbe6bd 5a2a22 fff4d6'],
  ['snow winter ice arctic cold mountain', '6d8fb8 b9cfe4 f1f6fb 25344d ffffff'],
  ['neon cyberpunk city synthwave retro', '16083a 7a1f8f ff5d8f 0d0524 ffd36e'],
  ['autumn fall leaf orange copper', '4b3b52 c8693b f4bb6a 2a1a1c ffe9c0'],
  ['fire lava volcano red dragon', '1a0a12 7c1a21 f2642c 0e0508 ffdf8e'],
  ['aurora polar emerald magic', '06142a 0e5a63 58d0a0 040c16 dcffe9'],
  ['lavender violet purple dream fantasy', '4a3f8f a48bd0 f3d3e6 231a47 fff3fb'],
  ['mist fog grey gray rain storm quiet', '5d6d7e a7b3ba dfe3df 232b33 fbfaf2'],
  ['teal modern minimal abstract', '0f4c5c 5fa8a0 f4d9b0 0a2a33 fff3dd'],
]

const wordsOf = (text: string): ReadonlySet<string> => {
  const words = text.toLowerCase().match(/\p{L}+/gu) ?? []
  return new Set(words.flatMap((word) => (word.endsWith('s') ? [word, word.slice(0, -1)] : [word])))
}

/**
 * The items that share the most words with `wanted`; all items when none shares a word. Items that share a word with
 * `unwanted` are left out unless that leaves none.
 */
export const bestMatches = <T extends readonly [words: string, ...rest: unknown[]]>(
  items: readonly T[],
  wanted: string,
  unwanted: string,
): readonly T[] => {
  const score = ([words]: T, text: ReadonlySet<string>) => words.split(' ').filter((word) => text.has(word)).length
  const unwantedWords = wordsOf(unwanted)
  const allowed = items.filter((item) => score(item, unwantedWords) === 0)
  const candidates = allowed.length > 0 ? allowed : items
  const wantedWords = wordsOf(wanted)
  const best = Math.max(...candidates.map((item) => score(item, wantedWords)))
  return best === 0 ? candidates : candidates.filter((item) => score(item, wantedWords) === best)
}

const blend = (a: Colour, b: Colour, share: number): Colour => [
  a[0] + (b[0] - a[0]) * share,
  a[1] + (b[1] - a[1]) * share,
  a[2] + (b[2] - a[2]) * share,
]

const brightness = ([red, green, blue]: Colour) => 0.3 * red + 0.6 * green + 0.1 * blue

/** A known palette blended slightly with another one, so that different prompts rarely share a palette. */
export const choosePalette = (prompt: string, negative: string, chance: Chance): Palette => {
  const read = (colours: string) => colours.split(' ').map(colour)
  const own = read(chance.pick(bestMatches(knownPalettes, prompt, negative))[1])
  const other = read(chance.pick(knownPalettes)[1])
  const lean = chance.between(0, 0.22)
  const [high, middle, low, dark, light] = own.map((each, at) => blend(each, other[at] as Colour, lean)) as [
    Colour,
    Colour,
    Colour,
    Colour,
    Colour,
  ]
  return { high, middle, low, dark, light, night: brightness(high) < 0.035 }
}

/** The range of pixels, sorted by brightness, whose mean gives each colour. */
const brightnessRanges = {
  dark: [0, 0.1],
  high: [0.15, 0.4],
  middle: [0.4, 0.65],
  low: [0.65, 0.9],
  light: [0.95, 1],
} as const

/**
 * The palette of an image, from its darkest to its lightest colours. `pixels` has three bytes for each pixel. `dark` is darkened
 * and `light` lightened, so that an image of one colour still gives a palette with contrast.
 */
export const paletteOf = (pixels: Uint8Array): Palette => {
  const squared = (at: number) => ((pixels[at] as number) / 255) ** 2
  const colours: Colour[] = []
  for (let at = 0; at + 2 < pixels.length; at += 3) colours.push([squared(at), squared(at + 1), squared(at + 2)])
  colours.sort((a, b) => brightness(a) - brightness(b))
  const meanOf = ([from, to]: readonly [number, number]): Colour => {
    const first = Math.floor(from * colours.length)
    const part = colours.slice(first, Math.max(first + 1, Math.ceil(to * colours.length)))
    const mean = (channel: 0 | 1 | 2) => part.reduce((sum, each) => sum + each[channel], 0) / part.length
    return [mean(0), mean(1), mean(2)]
  }
  const high = meanOf(brightnessRanges.high)
  const dark = blend(meanOf(brightnessRanges.dark), [0, 0, 0], 0.4)
  const light = blend(meanOf(brightnessRanges.light), [1, 1, 1], 0.35)
  return {
    high,
    middle: meanOf(brightnessRanges.middle),
    low: meanOf(brightnessRanges.low),
    dark,
    light,
    night: brightness(high) < 0.035,
  }
}

/** Writes the colour at `share` (0 to 1) of the gradient dark, high, middle, low, light into `out`. */
export const alongPalette = (palette: Palette, share: number, out: Float64Array): void => {
  const { dark, high, middle, low, light } = palette
  const place = Math.min(Math.max(share, 0), 0.9999) * 4
  const stops = [dark, high, middle, low, light]
  const from = stops[Math.floor(place)] as Colour
  const to = stops[Math.floor(place) + 1] as Colour
  const part = place - Math.floor(place)
  for (let channel = 0; channel < 3; channel += 1) {
    out[channel] = (from[channel] as number) + ((to[channel] as number) - (from[channel] as number)) * part
  }
}

/** Blends a colour over the colour in `out`. */
export const blendOver = (out: Float64Array, over: Colour, share: number): void => {
  out[0] = (out[0] as number) + (over[0] - (out[0] as number)) * share
  out[1] = (out[1] as number) + (over[1] - (out[1] as number)) * share
  out[2] = (out[2] as number) + (over[2] - (out[2] as number)) * share
}

/** Adds light to the colour in `out`. */
export const addLight = (out: Float64Array, light: Colour, strength: number): void => {
  out[0] = (out[0] as number) + light[0] * strength
  out[1] = (out[1] as number) + light[1] * strength
  out[2] = (out[2] as number) + light[2] * strength
}
