#!/usr/bin/env bash
# rsyslog 8.2302.0 of Debian 12, imtcp with its defaults: a message of RFC 5424 that is longer than 8,096 bytes and sent with
# octet counting (RFC 6587) becomes several records, and a byte is lost at each cut.
# Expected: one record, whole or truncated. The log of rsyslog says "truncating".
# Seen: a message of 20 KB becomes three records. The second and the third have the time of arrival, the host of the
# connection, and a part of the text as APP-NAME. Two bytes are in none of them. The next message is right.
# Consequence: parts of an audit record cannot be found by its fields, and JSON in it cannot be put together again. Keep
# messages below 8,096 bytes, or raise maxMessageSize of the receiver.
# Upstream: issue 7603 of rsyslog (open) describes that imtcp splits with each value of oversizemsg.input.mode, not the lost
# bytes.
# Exits with 1 when this changes. Needs Node and Debian 12 on x64 with current lists of apt.
set -euo pipefail
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
apt-get -qq -o APT::Sandbox::User=root download rsyslog=8.2302.0-1+deb12u2 libestr0 libfastjson4 liblognorm5 >/dev/null
for package in ./*.deb; do dpkg-deb -x "$package" debian; done
port=$(node -e "const s = net.createServer().listen(0, '127.0.0.1', () => { console.log(s.address().port); s.close() })")
cat >rsyslog.conf <<CONF
module(load="imtcp")
input(type="imtcp" address="127.0.0.1" port="$port")
template(name="fields" type="list") {
  property(name="timereported" dateFormat="rfc3339") constant(value="\t")
  property(name="hostname") constant(value="\t") property(name="app-name") constant(value="\t") property(name="rawmsg")
  constant(value="\n")
}
if \$inputname == "imtcp" then action(type="omfile" file="$folder/records" template="fields")
else action(type="omfile" file="$folder/log")
CONF
libraries=$(dirname "$(find "$folder/debian" -name libestr.so.0)")
modules=$(dirname "$(find "$folder/debian" -name imtcp.so)")
LD_LIBRARY_PATH=$libraries debian/usr/sbin/rsyslogd -n -f rsyslog.conf -M "$modules" -i "$folder/pid" 2>stderr &
pid=$!
cat >probe.mjs <<'JS'
import { readFileSync } from 'node:fs'
import { connect } from 'node:net'

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const time = '2026-01-02T03:04:05Z'
// Numbers, so that it shows which bytes are missing.
const text = Array.from({ length: 2500 }, (_, i) => `${i}`.padStart(7, '0')).join('.')
const message = (body) => `<14>1 ${time} sender.example app 1 id - ${body}`
const counted = (body) => `${Buffer.byteLength(message(body))} ${message(body)}`
const open = () =>
  new Promise((resolve, reject) => {
    const socket = connect(Number(process.argv[2]), '127.0.0.1', () => resolve(socket)).on('error', reject)
  })
let socket
while (!(socket = await open().catch(() => undefined))) await sleep(100)
socket.end(counted(text) + counted('the next one'))
const read = () => {
  try {
    return readFileSync('records', 'utf8').split('\n').slice(0, -1)
  } catch {
    return []
  }
}
while (!read().some((line) => line.endsWith('the next one'))) await sleep(100)
const records = read().map((line) => line.split('\t'))
const parts = records.slice(0, -1).map((fields) => fields[3])
let missing = message(text).length
for (const part of parts) missing -= part.length
const seen = {
  sent: message(text).length,
  records: parts.map((part) => part.length),
  missing,
  'joined, with one byte left out at each cut':
    parts.reduce((joined, part) => joined + message(text)[joined.length] + part) === message(text),
  'time and host as sent': records.map(([when, host]) => when === time && host === 'sender.example'),
  'app-name begins with': records.map(([, , app]) => app.slice(0, 8)),
}
console.log(JSON.stringify(seen, null, 2))
const expected = {
  sent: 20052,
  records: [8096, 8096, 3858],
  missing: 2,
  'joined, with one byte left out at each cut': true,
  'time and host as sent': [true, false, false, true],
  'app-name begins with': ['app', '005.0001', '17.00020', 'app'],
}
process.exit(JSON.stringify(seen) === JSON.stringify(expected) ? 0 : 1)
JS
timeout 30 node probe.mjs "$port" || result=$?
grep -ho 'received oversize message.*' stderr log 2>/dev/null | head -n 1 || true
exit "${result:-0}"
