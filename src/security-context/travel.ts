import { type Country, countries } from './countries.ts'

/** Faster than airliners fly. */
const maxKmPerHour = 1_000
/** People live near a border, databases err by a city, and a network reaches over it: nearer countries are always within reach. */
const reachKm = 500
const earthRadiusKm = 6_371
const msPerHour = 3_600_000

const toRadians = (degrees: number): number => (degrees * Math.PI) / 180

/** Along the surface of the earth, between the centers (haversine formula). */
const distanceKm = (one: Country, other: Country): number => {
  const [latitude, otherLatitude] = [toRadians(one.latitude), toRadians(other.latitude)]
  const byLatitude = Math.sin((otherLatitude - latitude) / 2) ** 2
  const byLongitude = Math.sin(toRadians(other.longitude - one.longitude) / 2) ** 2
  const half = byLatitude + Math.cos(latitude) * Math.cos(otherLatitude) * byLongitude
  return 2 * earthRadiusKm * Math.asin(Math.min(1, Math.sqrt(half)))
}

/**
 * Whether no traveller can have come from one country to another in this time. A country is a circle of its area around its
 * center, so the distance is that between two circles.
 *
 * Guarantee: false between neighbours, for countries that are near each other, and for one that is not known.
 */
export const isImpossibleTravel = (from: string, to: string, elapsedMs: number): boolean => {
  const [start, end] = [countries.get(from), countries.get(to)]
  if (start === undefined || end === undefined || from === to) return false
  if (start.neighbours.includes(to) || end.neighbours.includes(from)) return false
  const gapKm = distanceKm(start, end) - start.radiusKm - end.radiusKm
  if (gapKm <= reachKm) return false
  return gapKm > (maxKmPerHour * Math.max(0, elapsedMs)) / msPerHour
}
