export { createRandom, type Random } from '../../src/kit/random.ts'

/** A readable id, such as `idOf('team', 3)`. Ids of one kind sort by number. */
export const idOf = (kind: keyof typeof kinds, number: number): string =>
  `00000000-0000-7000-8${kinds[kind]}-${number.toString(16).padStart(12, '0')}`

const kinds = {
  user: '001',
  team: '002',
  project: '003',
  generation: '004',
  session: '005',
  service_key: '006',
  media: '007',
} as const
