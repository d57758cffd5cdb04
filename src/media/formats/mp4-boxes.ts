/** Why bytes are not taken for a film. */
export type VideoRefusal =
  | 'empty'
  | 'too_many_bytes'
  | 'type_not_accepted'
  | 'side_too_long'
  | 'too_long'
  | 'too_many_boxes'
  | 'too_many_samples'
  | 'tracks_not_accepted'
  | 'codec_not_accepted'
  | 'external_data'
  | 'fragmented'
  | 'truncated'
  | 'trailing_data'
  | 'damaged'

/** What is taken: 64 MiB, a minute, 4,096 pixels a side; far more boxes and samples than a minute has. */
export const videoLimits = {
  bytes: 67_108_864,
  durationMs: 60_000,
  side: 4_096,
  boxes: 1_000,
  samples: 100_000,
} as const

/** How reading ends early: caught by `readVideoHeader`, and by nobody else. */
export class Refused extends Error {
  override readonly name = 'Refused'
  readonly refused: VideoRefusal
  constructor(refused: VideoRefusal) {
    super(refused)
    this.refused = refused
  }
}
export const refuse = (refused: VideoRefusal): never => {
  throw new Refused(refused)
}

/** A box without its header: from the first byte of what it holds to behind the last. */
export type Box = { readonly type: string; readonly start: number; readonly end: number }
/** Reads numbers and boxes, and none of them beyond the end of the box that they have to be in. */
export const createReader = (bytes: Uint8Array) => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let boxes = 0
  const within = ({ start, end }: Box, offset: number, length: number): number =>
    start + offset + length <= end ? start + offset : refuse('damaged')
  const u8 = (box: Box, offset: number) => view.getUint8(within(box, offset, 1))
  const u16 = (box: Box, offset: number) => view.getUint16(within(box, offset, 2))
  const u32 = (box: Box, offset: number) => view.getUint32(within(box, offset, 4))
  const u64 = (box: Box, offset: number) => u32(box, offset) * 2 ** 32 + u32(box, offset + 4)
  const text = (box: Box, offset: number) => {
    const at = within(box, offset, 4)
    return String.fromCharCode(...bytes.subarray(at, at + 4))
  }

  /** One after the other to the very end (§4.2). `refusalOf` says what is wrong where one does not fit, by its type if it has one. */
  function* walk(all: Box, refusalOf: (type?: string) => VideoRefusal): Generator<Box> {
    for (let at = all.start; at < all.end; ) {
      boxes += 1
      if (boxes > videoLimits.boxes) refuse('too_many_boxes')
      const left = all.end - at
      if (left < 8) refuse(refusalOf())
      const rest = { type: '', start: at, end: all.end }
      const [size, type] = [u32(rest, 0), text(rest, 4)]
      const isLarge = size === 1
      if (isLarge && left < 16) refuse(refusalOf(type))
      const length = isLarge ? u64(rest, 8) : size
      if (length > left) refuse(refusalOf(type))
      // 0 is one that goes on to the end of the file: nobody could tell whether it is all there, or more than that.
      const header = (isLarge ? 16 : 8) + (type === 'uuid' ? 16 : 0)
      if (length < header) refuse(refusalOf(type) === 'trailing_data' ? 'trailing_data' : 'damaged')
      yield { type, start: at + header, end: at + length }
      at += length
    }
  }
  /** What is in a box, behind so many bytes of its own. */
  const inside = (box: Box, offset = 0): Box[] => [...walk({ ...box, start: box.start + offset }, () => 'damaged')]

  return { u8, u16, u32, u64, text, walk, inside }
}
export type Reader = ReturnType<typeof createReader>

/** The one box of a type, if there is one. */
export const find = (boxes: readonly Box[], type: string): Box | undefined => {
  const found = boxes.filter((box) => box.type === type)
  return found.length > 1 ? refuse('damaged') : found[0]
}
export const get = (boxes: readonly Box[], type: string): Box => find(boxes, type) ?? refuse('damaged')
