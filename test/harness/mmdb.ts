import { Buffer } from 'node:buffer'
import ipaddr from 'ipaddr.js'

/*
 * Small databases in the MaxMind format (https://maxmind.github.io/MaxMind-DB/), to say in a test where addresses are.
 */

type Value = string | number | readonly Value[] | { readonly [name: string]: Value }
type Records = Readonly<Record<string, Value>>

const types = { string: 2, uint16: 5, uint32: 6, map: 7, uint64: 9, array: 11 } as const

const control = (type: number, size: number): Buffer => {
  const [sizeBits, ...more] = size < 29 ? [size] : [29, size - 29]
  return Buffer.from(type <= 7 ? [(type << 5) | (sizeBits ?? 0), ...more] : [sizeBits ?? 0, type - 7, ...more])
}

const number = (type: number, value: number): Buffer => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt(value))
  const significant = bytes.subarray(
    bytes.findIndex((byte) => byte !== 0) === -1 ? 8 : bytes.findIndex((byte) => byte !== 0),
  )
  return Buffer.concat([control(type, significant.length), significant])
}

const encode = (value: Value): Buffer => {
  if (typeof value === 'string') {
    const text = Buffer.from(value)
    return Buffer.concat([control(types.string, text.length), text])
  }
  if (typeof value === 'number') return number(types.uint32, value)
  if (Array.isArray(value)) return Buffer.concat([control(types.array, value.length), ...value.map(encode)])
  const members = Object.entries(value)
  return Buffer.concat([
    control(types.map, members.length),
    ...members.flatMap(([name, member]) => [encode(name), encode(member)]),
  ])
}

/** A node of the tree: two branches, each another node or the place of a record. */
type Branch = Node | number | undefined
type Node = [Branch, Branch]

/** The bits of a range, in the tree of 128 bits for version 6, where IPv4 addresses lie below ::/96. */
const bitsOf = (range: string, version: 4 | 6): number[] => {
  const [address, length] = ipaddr.parseCIDR(range)
  const bytes = address.toByteArray()
  const isV4 = address.kind() === 'ipv4'
  const padded = isV4 && version === 6 ? [...new Array<number>(12).fill(0), ...bytes] : bytes
  const bits = padded.flatMap((byte) => Array.from({ length: 8 }, (_, at) => (byte >> (7 - at)) & 1))
  return bits.slice(0, isV4 && version === 6 ? 96 + length : length)
}

const insert = (root: Node, bits: readonly number[], place: number): void => {
  let node = root
  bits.forEach((bit, at) => {
    if (at === bits.length - 1) {
      node[bit as 0 | 1] = place
      return
    }
    const next = node[bit as 0 | 1]
    if (Array.isArray(next)) {
      node = next
      return
    }
    const made: Node = [undefined, undefined]
    node[bit as 0 | 1] = made
    node = made
  })
}

const nodesOf = (root: Node): Node[] => {
  const nodes = [root]
  for (const node of nodes) for (const branch of node) if (Array.isArray(branch)) nodes.push(branch)
  return nodes
}

/** The bytes of a database that has these records, by ranges that do not overlap. */
export const mmdb = (records: Records, version: 4 | 6 = 6): Buffer => {
  const root: Node = [undefined, undefined]
  const encoded: Buffer[] = []
  let size = 0
  for (const [range, record] of Object.entries(records)) {
    insert(root, bitsOf(range, version), size)
    const bytes = encode(record)
    encoded.push(bytes)
    size += bytes.length
  }
  const nodes = nodesOf(root)
  const tree = Buffer.alloc(nodes.length * 8)
  nodes.forEach((node, index) => {
    node.forEach((branch, side) => {
      const value = Array.isArray(branch)
        ? nodes.indexOf(branch)
        : branch === undefined
          ? nodes.length
          : nodes.length + 16 + branch
      tree.writeUInt32BE(value, index * 8 + side * 4)
    })
  })
  const metadata: [string, Buffer][] = [
    ['binary_format_major_version', number(types.uint16, 2)],
    ['binary_format_minor_version', number(types.uint16, 0)],
    ['build_epoch', number(types.uint64, 1_790_000_000)],
    ['database_type', encode('test')],
    ['description', encode({ en: 'of a test' })],
    ['ip_version', number(types.uint16, version)],
    ['languages', encode(['en'])],
    ['node_count', number(types.uint32, nodes.length)],
    ['record_size', number(types.uint16, 32)],
  ]
  return Buffer.concat([
    tree,
    Buffer.alloc(16),
    ...encoded,
    Buffer.from('\xab\xcd\xefMaxMind.com', 'latin1'),
    control(types.map, metadata.length),
    ...metadata.flatMap(([name, value]) => [encode(name), value]),
  ])
}
