#!/usr/bin/env bash
# maxmind 5.0.7 looks up an IPv6 address in a file that holds IPv4 only, and names a country: it takes the first 32 bits of
# the address for an IPv4 address. One expects an error, as MMDB_IPV6_LOOKUP_IN_IPV4_DATABASE_ERROR of the library in C.
# Seen with geo-whois-asn-country-ipv4.mmdb, whose metadata says ipVersion 4: an address of a French network is in CN and one
# of a Dutch network in US; geo-whois-asn-country.mmdb says FR and NL. An IPv4 address in the file for IPv6 is null.
# No file knows an IPv4 address in the form ::ffff:a.b.c.d, in which a socket for both kinds gives it, not even the one for
# both: it is null there, and in the file for IPv4 as well.
# A service that compares countries sees journeys that nobody made, but only of clients with IPv6. What tells the files
# apart is `metadata.ipVersion`.
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
