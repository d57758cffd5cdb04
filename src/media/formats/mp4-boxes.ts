/** Why bytes are refused as a video. */
export const videoRefusals = [
  'empty',
  'too_many_bytes',
  'type_not_accepted',
  'side_too_long',
  'too_long',
  'too_many_boxes',
  'too_many_samples',
  'tracks_not_accepted',
  'codec_not_accepted',
  'external_data',
  'fragmented',
  'truncated',
  'trailing_data',
  'damaged',
] as const
export type VideoRefusal = (typeof videoRefusals)[number]

/**
 * Limits: 64 MiB, one minute as it plays, 4,096 pixels a side. The samples of a track whose edit list leaves some of them out
 * may last two minutes. The limits on boxes and samples are far above those of any minute of video.
 */
export const videoLimits = {
  bytes: 67_108_864,
  durationMs: 60_000,
  editedMs: 120_000,
  side: 4_096,
  boxes: 1_000,
  samples: 100_000,
} as const

/** Ends parsing early. Only `readVideoHeader` catches it. */
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

/** The payload of a box, without its header; `at` is the start of the header, `end` is exclusive. */
export type Box = { readonly type: string; readonly at: number; readonly start: number; readonly end: number }
/** Reads numbers and boxes. A read beyond the end of the enclosing box is refused as damaged. */
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

  /**
   * Walks the boxes that must fill `all` exactly (§4.2). `refusalOf` gives the reason when one does not fit; its type is known
   * unless its header is cut off. A box of size 0 extends to the end, which `mayBeOpen` permits by type.
   */
  function* walk(
    all: Box,
    refusalOf: (type?: string) => VideoRefusal,
    mayBeOpen: (type: string) => boolean = () => false,
  ): Generator<Box> {
    for (let at = all.start; at < all.end; ) {
      boxes += 1
      if (boxes > videoLimits.boxes) refuse('too_many_boxes')
      const remaining = all.end - at
      if (remaining < 8) refuse(refusalOf())
      const rest = { type: '', at, start: at, end: all.end }
      const [size, type] = [u32(rest, 0), text(rest, 4)]
      const isLarge = size === 1
      if (isLarge && remaining < 16) refuse(refusalOf(type))
      const isOpen = size === 0 && mayBeOpen(type)
      const length = isLarge ? u64(rest, 8) : isOpen ? remaining : size
      if (length > remaining) refuse(refusalOf(type))
      const header = (isLarge ? 16 : 8) + (type === 'uuid' ? 16 : 0)
      if (length < header) refuse(refusalOf(type) === 'trailing_data' ? 'trailing_data' : 'damaged')
      yield { type, at, start: at + header, end: at + length }
      at += length
    }
  }
  /** The boxes inside a box, after `offset` bytes of other fields. */
  const childrenOf = (box: Box, offset = 0): Box[] => [...walk({ ...box, start: box.start + offset }, () => 'damaged')]

  return { u8, u16, u32, u64, text, walk, childrenOf }
}
export type Reader = ReturnType<typeof createReader>

/** The box of a type; undefined when it is missing. Refuses a second box of the type as damaged. */
export const find = (boxes: readonly Box[], type: string): Box | undefined => {
  const found = boxes.filter((box) => box.type === type)
  return found.length > 1 ? refuse('damaged') : found[0]
}
/** The box of a type; refuses a missing or a second box of the type as damaged. */
export const get = (boxes: readonly Box[], type: string): Box => find(boxes, type) ?? refuse('damaged')
