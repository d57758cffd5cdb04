import { type Chance, cellHash, clamp, cosine, fade, fractalNoise, mix, noise, sine, smooth } from './arithmetic.ts'
import { addLight, alongPalette, blendOver, type Colour, type Palette } from './palette.ts'

/**
 * Writes the colour of a point into `out`. `x` and `y` are 0 in the centre and ±0.5 at the edges of the shorter side. `pixel` is
 * the distance between two pixels: edges are anti-aliased over that distance.
 */
export type Scene = (x: number, y: number, pixel: number, out: Float64Array) => void
export type SceneMaker = (palette: Palette, chance: Chance, extent: { x: number; y: number }) => Scene

/** Outlines extend a little beyond the image, because reflections in water show points outside it. */
const outlineReach = 1.2
const outlinePoints = 4_096

const seedFrom = (chance: Chance) => Math.floor(chance() * 2_147_483_648)
const length = (x: number, y: number) => Math.sqrt(x * x + y * y)

const stars = (x: number, y: number, seed: number, light: Colour, strength: number, out: Float64Array) => {
  for (let layer = 0; layer < 2; layer += 1) {
    const scale = layer === 0 ? 26 : 64
    const cellX = Math.floor(x * scale)
    const cellY = Math.floor(y * scale)
    const bright = cellHash(cellX, cellY, seed + layer)
    if (bright < 0.72) continue
    const dx = x * scale - cellX - 0.2 - 0.6 * cellHash(cellX, cellY, seed + 7)
    const dy = y * scale - cellY - 0.2 - 0.6 * cellHash(cellX, cellY, seed + 8)
    const size = (bright - 0.7) * (layer === 0 ? 0.16 : 0.3)
    const glow = fade((dx * dx + dy * dy) / (size * size))
    addLight(out, light, strength * glow * (bright - 0.6) * 2.4)
  }
}

/** Mountain ridges in haze below a sky with a sun or moon; in about half of the images with water in front. */
export const ridges: SceneMaker = (palette, chance, extent) => {
  const { high, middle, low, dark, light, night } = palette
  const seed = seedFrom(chance)
  const horizon = extent.y * chance.between(0.1, 0.42)
  const sunX = extent.x * chance.between(-0.62, 0.62)
  const sunY = horizon - extent.y * chance.between(night ? 0.55 : 0.2, 0.95)
  const sunSize = chance.between(0.032, 0.085)
  const cloudiness = chance.between(-0.12, 0.22)
  const cloudScale = chance.between(1.3, 2.4)
  const water = chance() < 0.55 ? horizon + extent.y * chance.between(0.14, 0.3) : undefined
  const count = 4 + Math.floor(chance() * 3)
  const rugged = chance.between(0.25, 1)
  const layers = Array.from({ length: count }, (_, index) => {
    const near = (index + 1) / count
    const base = mix(horizon, water ?? extent.y * 0.95, near * (water === undefined ? 0.86 : 0.75))
    return {
      near,
      base,
      height: mix(0.07, 0.2, chance()) * mix(1, 0.75, near) * (0.6 + rugged * 0.7),
      scale: mix(1.2, 2.6, chance()) * mix(1.1, 0.9, near),
      shift: chance.between(-40, 40),
    }
  })

  /** The lines are the same in every row: they are drawn once, fine enough for any size, and looked up. */
  const outlines = layers.map((layer) => {
    const line = new Float64Array(outlinePoints + 2)
    for (let point = 0; point < line.length; point += 1) {
      const x = mix(-outlineReach, outlineReach, point / outlinePoints) * extent.x
      const rolling = fractalNoise(x * layer.scale + layer.shift, layer.shift, seed + 31, 6)
      const sharp = 0.42 - Math.abs(fractalNoise(x * layer.scale * 0.8 + layer.shift, 5.5, seed + 77, 6)) * 1.5
      line[point] = layer.base - layer.height * (0.35 + mix(rolling, sharp, rugged * 0.75))
    }
    return line
  })
  const ridgeAt = (x: number, index: number) => {
    const line = outlines[index] as Float64Array
    const place = clamp((x / extent.x / outlineReach + 1) / 2) * outlinePoints
    const point = Math.floor(place)
    return mix(line[point] as number, line[point + 1] as number, place - point)
  }

  const sky = (x: number, y: number, pixel: number, out: Float64Array) => {
    const down = clamp((y + extent.y) / (horizon + extent.y))
    const [from, to, share] = down < 0.55 ? [high, middle, down / 0.55] : [middle, low, (down - 0.55) / 0.45]
    for (let channel = 0; channel < 3; channel += 1) {
      out[channel] = mix(from[channel] as number, to[channel] as number, share * share * (3 - 2 * share))
    }
    if (night) stars(x, y, seed + 3, light, 1 - smooth(0.3, 0.95, down), out)
    const away = length(x - sunX, y - sunY)
    addLight(out, light, (night ? 0.1 : 0.3) * fade(away * 4.2) + 0.35 * fade(Math.max(0, away - sunSize) * 24))
    const disc = 1 - smooth(sunSize - pixel, sunSize + pixel, away)
    blendOver(out, light, disc)
    addLight(out, light, disc * (night ? 0.1 : 0.55))
    const bend = noise(x * 1.1, y * 2, seed + 12) * 0.5
    const puff = fractalNoise(x * cloudScale + bend, y * cloudScale * 3.4 + bend, seed + 11, 5)
    const cover = smooth(0.02 - cloudiness, 0.62 - cloudiness, puff) * smooth(0, 0.25, down) * (night ? 0.28 : 0.72)
    const lit = 0.35 + 0.65 * fade(away * 1.6)
    const cloud: Colour = [mix(low[0], light[0], lit), mix(low[1], light[1], lit), mix(low[2], light[2], lit)]
    blendOver(out, cloud, cover * 0.8)
  }

  const tint: [number, number, number] = [0, 0, 0]
  const above = (x: number, y: number, pixel: number, out: Float64Array) => {
    // The nearest ridge that covers the point completely hides everything behind it.
    let from = layers.length - 1
    while (from >= 0 && y - ridgeAt(x, from) < pixel) from -= 1
    if (from < 0) sky(x, y, pixel, out)
    for (let index = Math.max(0, from); index < layers.length; index += 1) {
      const layer = layers[index] as (typeof layers)[number]
      const edge = ridgeAt(x, index)
      const cover = clamp((y - edge) / pixel + 0.5)
      if (cover === 0) continue
      const depth = y - edge
      const rough = fractalNoise(x * 9 + layer.shift, y * 15, seed + 55, 3) * 0.1 * layer.near
      const body = clamp(0.12 + 0.88 * layer.near * layer.near + rough)
      const mist = smooth(0, 0.34, depth) * (1 - layer.near) * 0.75 + 0.16 * (1 - layer.near)
      const rim = fade(depth * 60) * fade(length(x - sunX, edge - sunY) * 2.4) * 0.3
      for (let channel = 0; channel < 3; channel += 1) {
        const far = mix(low[channel] as number, middle[channel] as number, 0.45)
        const solid = mix(far, dark[channel] as number, body)
        tint[channel] = mix(solid, low[channel] as number, mist) + rim * (light[channel] as number)
      }
      blendOver(out, tint, cover)
    }
  }

  return (x, y, pixel, out) => {
    if (water === undefined || y < water) {
      above(x, y, pixel, out)
      return
    }
    const depth = y - water
    const far = 1 / (depth * 3.2 + 0.06)
    const wave = fractalNoise(x * 2.6 * far * 0.5, depth * 34 * far * 0.4, seed + 91, 3)
    above(x + wave * 0.012, water - depth * 0.9 - Math.abs(wave) * 0.03 - 0.002, pixel * 2, out)
    blendOver(out, dark, 0.2 + 0.35 * smooth(0, 0.6, depth))
    const path = fade(Math.abs(x - sunX + wave * 0.12) * 9)
    addLight(out, light, path * smooth(0.05, 0.42, wave) * 0.55)
    addLight(out, low, 0.18 * fade(depth * 70))
  }
}

/** Folds of cloth or smoke: domain-warped noise, lit from the side. */
export const folds: SceneMaker = (palette, chance) => {
  const seed = seedFrom(chance)
  const scale = chance.between(1.1, 2.1)
  const bend = chance.between(0.9, 1.7)
  const angle = chance.between(0, 6.28)
  const [alongX, alongY] = [cosine(angle), sine(angle)]
  const stretch = chance.between(0.45, 1)
  const ribs = chance.between(2.2, 5.5)
  const [lightX, lightY] = [cosine(angle + 1.9), sine(angle + 1.9)]
  const heightAt = (x: number, y: number) => {
    const u = (x * alongX + y * alongY) * scale * stretch
    const v = (y * alongX - x * alongY) * scale
    const firstX = fractalNoise(u, v, seed, 2)
    const firstY = fractalNoise(u + 5.2, v + 1.3, seed + 1, 2)
    const second = fractalNoise(u + bend * firstX + 1.7, v + bend * firstY + 9.2, seed + 2, 3)
    return (
      fractalNoise(u + bend * second, v + bend * firstX, seed + 3, 2) + 0.5 * second + 0.16 * sine(ribs * 6.28 * second)
    )
  }
  const step = 0.004
  return (x, y, _pixel, out) => {
    const height = heightAt(x, y)
    const fallX = (heightAt(x + step, y) - height) / step
    const fallY = (heightAt(x, y + step) - height) / step
    const steep = 1 / Math.sqrt(1 + 0.1 * (fallX * fallX + fallY * fallY))
    const facing = -(fallX * lightX + fallY * lightY) * 0.32 * steep
    alongPalette(palette, 0.47 + 0.62 * height, out)
    const shade = clamp(0.66 + 0.52 * facing, 0.16, 1.3)
    for (let channel = 0; channel < 3; channel += 1) out[channel] = (out[channel] as number) * shade
    const gloss = clamp(facing * 1.15 - 0.25)
    addLight(out, palette.light, gloss * gloss * 0.55)
  }
}

/** Stacked sheets of paper, each with a shadow on the next. */
export const sheets: SceneMaker = (palette, chance) => {
  const seed = seedFrom(chance)
  const count = 6 + Math.floor(chance() * 4)
  const scale = chance.between(1.1, 1.9)
  const bend = chance.between(0.5, 1.1)
  const [centreX, centreY] = [chance.between(-0.3, 0.3), chance.between(-0.3, 0.3)]
  const bowl = chance.between(0.5, 1.1)
  const reversed = chance() < 0.5
  const heightAt = (x: number, y: number) => {
    const warp = fractalNoise(x * scale * 0.8 + 3.1, y * scale * 0.8, seed + 1, 2) * bend
    const away = length(x - centreX, y - centreY)
    return fractalNoise(x * scale + warp, y * scale - warp, seed, 2) + (away - 0.42) * bowl
  }
  const shadow = 0.016
  return (x, y, pixel, out) => {
    const place = clamp(heightAt(x, y) * 0.62 + 0.5, 0, 0.999) * count
    const above = clamp(heightAt(x - shadow, y - shadow * 1.3) * 0.62 + 0.5, 0, 0.999) * count
    const sheet = Math.floor(place)
    const grain = noise(x * 210, y * 210, seed + 9) * 0.02 + noise(x * 60, y * 90, seed + 8) * 0.015
    const tone = (at: number) => 0.1 + (0.88 * (reversed ? count - 1 - at : at)) / (count - 1)
    const steepness = pixel * count * 2
    const blur = smooth(0, steepness, place - sheet)
    alongPalette(palette, mix(tone(Math.max(0, sheet - 1)), tone(sheet), sheet === 0 ? 1 : blur) + grain, out)
    const castOn = (at: number) => smooth(0, 0.42, above - (at + 1) + 0.2) * 0.5
    const cast = mix(castOn(sheet - 1), castOn(sheet), blur)
    const edge = 0.07 * fade((place - sheet) * 16) * blur
    for (let channel = 0; channel < 3; channel += 1) out[channel] = (out[channel] as number) * (1 - cast) + edge
  }
}

/** A planet among stars, with bands or seas, an atmosphere and sometimes a ring. */
export const world: SceneMaker = (palette, chance, extent) => {
  const { high, middle, low, dark, light } = palette
  const seed = seedFrom(chance)
  const size = chance.between(0.2, 0.36)
  const [centreX, centreY] = [extent.x * chance.between(-0.35, 0.35), extent.y * chance.between(-0.25, 0.3)]
  const angle = chance.between(2.4, 5.4)
  const [lightX, lightY, lightZ] = [cosine(angle) * 0.82, sine(angle) * 0.82, 0.57]
  const tilt = chance.between(-0.6, 0.6)
  const [tiltX, tiltY] = [cosine(tilt), sine(tilt)]
  const banded = chance() < 0.55
  const ring = chance() < 0.5 ? chance.between(0.16, 0.34) : undefined
  const nebula = chance.between(0.25, 0.6)
  const surface = new Float64Array(3)

  const space = (x: number, y: number, out: Float64Array) => {
    const warp = fractalNoise(x * 1.4, y * 1.4, seed + 21, 3)
    const gas = smooth(-0.15, 0.8, fractalNoise(x * 1.6 + warp, y * 1.6 - warp, seed + 22, 5))
    const veil = smooth(0, 0.85, fractalNoise(x * 2.3 - warp, y * 2.3 + warp * 2, seed + 23, 4))
    for (let channel = 0; channel < 3; channel += 1) {
      const base = (dark[channel] as number) * 0.22 + (high[channel] as number) * 0.03
      const cloud = (high[channel] as number) * gas * 0.55 + (middle[channel] as number) * veil * gas * 0.6
      out[channel] = base + cloud * nebula
    }
    stars(x, y, seed + 3, light, 1.1, out)
  }

  const globe = (x: number, y: number) => {
    const z = Math.sqrt(Math.max(0, 1 - x * x - y * y))
    const across = x * tiltX + y * tiltY
    const along = y * tiltX - x * tiltY
    const swirl = fractalNoise(across * 1.6 + z * 1.2, along * (banded ? 4.5 : 1.8) + z * 0.7, seed, 5)
    const tone = banded
      ? 0.5 + 0.2 * sine(along * 11 + swirl * 3.2) + 0.3 * swirl + 0.08 * sine(along * 29 + swirl * 5)
      : 0.5 + 0.85 * swirl
    alongPalette(palette, banded ? 0.2 + 0.75 * clamp(tone) : smooth(0.25, 0.8, tone), surface)
    const facing = x * lightX + y * lightY + z * lightZ
    const day = smooth(-0.12, 0.75, facing)
    for (let channel = 0; channel < 3; channel += 1)
      surface[channel] = (surface[channel] as number) * (0.012 + 1.08 * day)
    const grazing = (1 - z) * (1 - z)
    addLight(surface, low, grazing * 0.75 * smooth(-0.25, 0.7, facing))
  }

  return (x, y, pixel, out) => {
    space(x, y, out)
    const px = (x - centreX) / size
    const py = (y - centreY) / size
    const away = length(px, py)
    const towards = (px * lightX + py * lightY) / Math.max(away, 0.001)
    if (away > 1) addLight(out, low, 0.4 * fade((away - 1) * 13) * smooth(-0.5, 0.9, towards))
    const cover = 1 - smooth(1 - pixel / size, 1 + pixel / size, away)
    if (cover > 0) {
      globe(Math.min(px, px / Math.max(1, away)), py / Math.max(1, away))
      blendOver(out, [surface[0] as number, surface[1] as number, surface[2] as number], cover)
    }
    if (ring === undefined) return
    const across = px * tiltX + py * tiltY
    const along = (py * tiltX - px * tiltY) / ring
    const orbit = length(across, along)
    if (orbit < 1.3 || orbit > 2.2 || (along < 0 && away < 1)) return
    const gaps = 0.62 + 0.5 * noise(orbit * 16, 3.3, seed + 41) + 0.35 * noise(orbit * 47, 7.7, seed + 42)
    const strength = smooth(1.3, 1.38, orbit) * (1 - smooth(2.05, 2.2, orbit)) * clamp(gaps) * 0.85
    // The planet casts its shadow on the part of the ring behind it.
    const shaded = 1 - 0.88 * (1 - smooth(0.9, 1.05, Math.abs(px * lightY - py * lightX))) * smooth(0, 0.3, -towards)
    const bright = mix(0.35, 1, clamp(0.5 + 0.5 * towards)) * shaded
    blendOver(
      out,
      [
        mix(middle[0], light[0], 0.45) * bright,
        mix(middle[1], light[1], 0.45) * bright,
        mix(middle[2], light[2], 0.45) * bright,
      ],
      strength,
    )
  }
}
