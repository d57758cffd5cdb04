/** A window is counted in this many slots. Units of a slot count until the whole slot is older than the window. */
export const slotsPerWindow = 120

export const slotMsOf = (windowMs: number): number => windowMs / slotsPerWindow

/**
 * Units of one key by slot, oldest first. `total` is the sum of those that have not expired; it is right after `expire`.
 * Costs no more memory than the slots in which there were units.
 */
export type SlotCounts = { readonly slots: number[]; readonly units: number[]; head: number; total: number }

export const createSlotCounts = (): SlotCounts => ({ slots: [], units: [], head: 0, total: 0 })

/** Drops the slots that are older than the window. */
export const expire = (counts: SlotCounts, slot: number): void => {
  const { slots, units } = counts
  const oldest = slot - slotsPerWindow
  while (counts.head < slots.length && (slots[counts.head] ?? 0) < oldest) {
    counts.total -= units[counts.head] ?? 0
    counts.head += 1
  }
  if (counts.head === 0) return
  if (counts.head === slots.length) clear(counts)
  else if (counts.head > slotsPerWindow) {
    slots.splice(0, counts.head)
    units.splice(0, counts.head)
    counts.head = 0
  }
}

export const clear = (counts: SlotCounts): void => {
  counts.slots.length = 0
  counts.units.length = 0
  counts.head = 0
  counts.total = 0
}

/** Adds units to a slot, which must be no older than the newest one so far; an older one counts as the newest. */
export const add = (counts: SlotCounts, slot: number, units: number): void => {
  const last = counts.slots.length - 1
  const newest = counts.slots[last]
  if (last >= counts.head && newest !== undefined && newest >= slot)
    counts.units[last] = (counts.units[last] ?? 0) + units
  else {
    counts.slots.push(slot)
    counts.units.push(units)
  }
  counts.total += units
}

/** Pairs of age, in slots before `slot`, and units. */
export const agesOf = (counts: SlotCounts, slot: number): [age: number, units: number][] =>
  counts.slots.slice(counts.head).map((each, index) => [slot - each, counts.units[counts.head + index] ?? 0])

/** In how many slots `wanted` units will have expired; a whole window where there are fewer. */
export const slotsUntilFree = (counts: SlotCounts, slot: number, wanted: number): number => {
  let freed = 0
  for (let index = counts.head; index < counts.slots.length; index += 1) {
    freed += counts.units[index] ?? 0
    if (freed >= wanted) return (counts.slots[index] ?? slot) + slotsPerWindow + 1 - slot
  }
  return slotsPerWindow + 1
}
