import { expect, test } from 'bun:test'
import { isPublicAddress } from '../../src/kit/public-address.ts'

/** First and last addresses of IANA's special-purpose blocks and of the blocks that are not unicast. */
const special = {
  'this network': ['0.0.0.0', '0.255.255.255'],
  'private use': ['10.0.0.0', '10.255.255.255', '172.16.0.0', '172.31.255.255', '192.168.0.0', '192.168.255.255'],
  'shared by carriers': ['100.64.0.0', '100.127.255.255'],
  loopback: ['127.0.0.0', '127.0.0.1', '127.255.255.255', '::1'],
  'link local': ['169.254.0.0', '169.254.169.254', '169.254.255.255', 'fe80::', 'fe80::1', 'febf:ffff::1'],
  'protocol assignments': ['192.0.0.0', '192.0.0.170', '192.0.0.255', '2001::', '2001:1ff:ffff::', '2001:1::1'],
  documentation: ['192.0.2.1', '198.51.100.1', '203.0.113.255', '2001:db8::1', '3fff::', '3fff:fff:ffff::'],
  as112: ['192.31.196.1', '192.175.48.1', '2001:4:112::1', '2620:4f:8000::1'],
  amt: ['192.52.193.1', '2001:3::1'],
  '6to4 relays': ['192.88.99.1'],
  benchmarking: ['198.18.0.0', '198.19.255.255', '2001:2::1'],
  multicast: ['224.0.0.1', '239.255.255.255', 'ff02::1', 'ffff::'],
  reserved: ['240.0.0.0', '255.255.255.254', '4000::1', '1000::1', 'e000::1', 'fe00::1'],
  broadcast: ['255.255.255.255'],
  unspecified: ['::'],
  'IPv4 inside': ['::ffff:10.0.0.1', '::ffff:8.8.8.8', '::8.8.8.8', '::127.0.0.1', '::ffff:0:127.0.0.1'],
  'IPv4 inside, in hexadecimal': ['::ffff:7f00:1', '0:0:0:0:0:ffff:a9fe:a9fe'],
  NAT64: ['64:ff9b::127.0.0.1', '64:ff9b::808:808', '64:ff9b:1::1', '64:ff9b:1:ffff::a00:1'],
  '6to4': ['2002:7f00:1::', '2002:808:808::1'],
  teredo: ['2001:0:4136:e378:8000:63bf:3fff:fdd2'],
  'discard only, and dummies': ['100::1', '100:0:0:1::1'],
  'ORCHID and drones': ['2001:10::1', '2001:20::1', '2001:2f:ffff::', '2001:30::1'],
  'segment routing': ['5f00::1'],
  'unique local': ['fc00::1', 'fdff:ffff::1', 'fd00:ec2::254'],
  'site local': ['fec0::1', 'feff::1'],
}

for (const [block, addresses] of Object.entries(special)) {
  test(`no address of this block is public: ${block}`, () => {
    expect(addresses.filter(isPublicAddress)).toEqual([])
  })
}

test('addresses next to the special-purpose blocks are public', () => {
  const neighbours = ['1.0.0.0', '9.255.255.255', '11.0.0.0', '100.63.255.255', '100.128.0.0', '126.255.255.255']
  const more = ['128.0.0.0', '169.253.255.255', '169.255.0.0', '172.15.255.255', '172.32.0.0', '192.0.1.0']
  const last = ['192.167.255.255', '192.169.0.0', '198.17.255.255', '198.20.0.0', '223.255.255.255', '8.8.8.8']
  const six = ['2001:200::1', '2001:4860:4860::8888', '2003::1', '2606:4700::1111', '2a00:1450::1', '3ffe::1']
  for (const address of [...neighbours, ...more, ...last, ...six]) {
    expect([address, isPublicAddress(address)]).toEqual([address, true])
  }
})

test('text that is not a plain address is not public', () => {
  const odd = ['', 'localhost', '8.8.8', '134744072', '0x08080808', '010.8.8.8', '8.8.8.8 ', '8.8.8.8:443', '08.8.8.8']
  const six = ['2606:4700::1111%eth0', '[2606:4700::1111]', '2606:4700:::1', 'g::1']
  expect([...odd, ...six].filter(isPublicAddress)).toEqual([])
})
