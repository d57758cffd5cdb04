#!/usr/bin/env bash
# maxmind 5.0.7 finds a country for an IPv6 address in a file that only has IPv4 addresses, because it reads the first 32 bits
# of the address as an IPv4 address.
# Expected: an error, such as MMDB_IPV6_LOOKUP_IN_IPV4_DATABASE_ERROR of the library in C.
# Seen with geo-whois-asn-country-ipv4.mmdb, whose metadata has ipVersion 4: an address of a French network is in CN, and one
# of a Dutch network in US. In geo-whois-asn-country.mmdb they are in FR and NL. In the file for IPv6 an IPv4 address is null.
# An IPv4 address in the form ::ffff:a.b.c.d, as a dual-stack socket reports it, is null in all three files.
# Consequence: a service that compares countries reports impossible journeys, but only for clients with IPv6. Check
# `metadata.ipVersion` when the file is opened, and convert ::ffff:a.b.c.d.
# Exits with 1 when this changes. Needs npm and Node.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit maxmind@5.0.7 @ip-location-db/geo-whois-asn-country-mmdb@2.3.2026061719 >/dev/null
cat >probe.mjs <<'JS'
import maxmind from 'maxmind'

const addresses = ['193.0.6.139', '::ffff:193.0.6.139', '2001:67c:2e8::1', '2a01:e0a::1']
const seen = {}
for (const kind of ['-ipv4', '-ipv6', '']) {
  const name = `geo-whois-asn-country${kind}.mmdb`
  const reader = await maxmind.open(`node_modules/@ip-location-db/geo-whois-asn-country-mmdb/${name}`)
  const countries = addresses.map((address) => `${address} ${reader.get(address)?.country_code ?? null}`)
  seen[name] = [`ipVersion ${reader.metadata.ipVersion}`, ...countries]
}
console.log(JSON.stringify(seen, null, 2))
const expected = [
  ['ipVersion 4', '193.0.6.139 NL', '::ffff:193.0.6.139 null', '2001:67c:2e8::1 US', '2a01:e0a::1 CN'],
  ['ipVersion 6', '193.0.6.139 null', '::ffff:193.0.6.139 null', '2001:67c:2e8::1 NL', '2a01:e0a::1 FR'],
  ['ipVersion 6', '193.0.6.139 NL', '::ffff:193.0.6.139 null', '2001:67c:2e8::1 NL', '2a01:e0a::1 FR'],
]
process.exit(JSON.stringify(Object.values(seen)) === JSON.stringify(expected) ? 0 : 1)
JS
node probe.mjs
