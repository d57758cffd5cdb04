#!/usr/bin/env bash
# @simplewebauthn/server 14.0.3: the algorithms that it offers for a new passkey depend on the runtime, and a passkey that was
# made on one runtime can be unusable on another.
# Expected: the default that the comment of `supportedAlgorithmIDs` names, [EdDSA, ES256, RS256], on each runtime.
# Seen: on Deno 2.9.6 and Bun 1.4.5 ML-DSA-44 is the first choice. If the authenticator supports it, the registration is
# verified, and each login on Node 22 throws an error.
# Consequence: a service that moves to Node 22, goes back to an older Node, or runs on two runtimes locks these users out,
# without a sign at the registration. Set `supportedAlgorithmIDs` in generateRegistrationOptions and in
# verifyRegistrationResponse.
# Upstream: pull request 794 describes the default for Deno and for Node from 24.7 on. It mentions neither Bun nor the login
# on another runtime. Few authenticators have ML-DSA yet; the one below is software.
# Exits with 1 when this changes. Needs npm, and a system for which npm has these runtimes, such as Linux on x64.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit @simplewebauthn/server@14.0.3 bun@1.4.5 deno@2.9.6 node@22.23.2 >/dev/null
cat >register.mjs <<'JS'
// Registers a passkey, as an authenticator that supports each algorithm and takes the first one offered, and prints the
// stored credential with the answer to a login.
import { generateRegistrationOptions, verifyRegistrationResponse } from '@simplewebauthn/server'

const rpID = 'localhost'
const origin = 'https://localhost'
const bytesOf = (text) => new TextEncoder().encode(text)
const join = (...parts) => new Uint8Array(parts.flatMap((part) => [...part]))
const base64url = (bytes) => Buffer.from(bytes).toString('base64url')
const sha256 = async (bytes) => new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))
const length16 = (bytes) => [bytes.length >> 8, bytes.length & 255]

const options = await generateRegistrationOptions({ rpName: 'test', rpID, userName: 'test' })
const offered = options.pubKeyCredParams.map(({ alg }) => alg)
// COSE: a map of kty, alg and the public key.
const makers = {
  '-48': async () => {
    const keys = await crypto.subtle.generateKey({ name: 'ML-DSA-44' }, true, ['sign', 'verify'])
    const { pub } = await crypto.subtle.exportKey('jwk', keys.publicKey)
    const key = Buffer.from(pub, 'base64url')
    const cose = join([0xa3, 1, 7, 3, 0x38, 47, 0x20, 0x59, ...length16(key)], key)
    return { cose, sign: (data) => crypto.subtle.sign({ name: 'ML-DSA-44' }, keys.privateKey, data) }
  },
  '-8': async () => {
    const keys = await crypto.subtle.generateKey({ name: 'Ed25519' }, true, ['sign', 'verify'])
    const key = new Uint8Array(await crypto.subtle.exportKey('raw', keys.publicKey))
    const cose = join([0xa4, 1, 1, 3, 0x27, 0x20, 6, 0x21, 0x58, key.length], key)
    return { cose, sign: (data) => crypto.subtle.sign({ name: 'Ed25519' }, keys.privateKey, data) }
  },
}
const { cose, sign } = await makers[offered[0]]()
const id = crypto.getRandomValues(new Uint8Array(16))
const clientData = (type, challenge) => bytesOf(JSON.stringify({ type, challenge, origin, crossOrigin: false }))
const authenticatorData = async (flags, counter, ...more) => join(await sha256(bytesOf(rpID)), [flags, 0, 0, 0, counter], ...more)

const made = await authenticatorData(0x45, 0, new Uint8Array(16), length16(id), id, cose)
const attestation = join([0xa3, 0x63], bytesOf('fmt'), [0x64], bytesOf('none'), [0x67], bytesOf('attStmt'), [0xa0, 0x68], bytesOf('authData'), [0x59, ...length16(made)], made)
const credential = { id: base64url(id), rawId: base64url(id), type: 'public-key', clientExtensionResults: {} }
const { verified, registrationInfo } = await verifyRegistrationResponse({
  response: {
    ...credential,
    response: { clientDataJSON: base64url(clientData('webauthn.create', options.challenge)), attestationObject: base64url(attestation) },
  },
  expectedChallenge: options.challenge,
  expectedOrigin: origin,
  expectedRPID: rpID,
})
const challenge = base64url(bytesOf('a challenge'))
const asked = clientData('webauthn.get', challenge)
const data = await authenticatorData(0x05, 1)
const signature = new Uint8Array(await sign(join(data, await sha256(asked))))
const login = {
  response: { ...credential, response: { clientDataJSON: base64url(asked), authenticatorData: base64url(data), signature: base64url(signature) } },
  expectedChallenge: challenge,
  expectedOrigin: origin,
  expectedRPID: rpID,
}
console.log(JSON.stringify({ offered, verified, publicKey: base64url(registrationInfo.credential.publicKey), login }))
JS
cat >login.mjs <<'JS'
import { readFileSync } from 'node:fs'
import { verifyAuthenticationResponse } from '@simplewebauthn/server'

const { publicKey, login } = JSON.parse(readFileSync(globalThis.Deno?.args[0] ?? process.argv[2], 'utf8'))
const credential = { id: login.response.id, publicKey: new Uint8Array(Buffer.from(publicKey, 'base64url')), counter: 0 }
await verifyAuthenticationResponse({ ...login, credential }).then(
  ({ verified }) => console.log(verified ? 'logged in' : 'refused'),
  (error) => console.log(`throws: ${error.message.split('. ')[0]}`),
)
JS
names=(deno bun node)
on() {
  local name=$1
  shift
  case $name in
    deno) node_modules/.bin/deno run --allow-all --quiet "$@" ;;
    bun) node_modules/.bin/bun "$@" ;;
    node) node_modules/.bin/node "$@" ;;
  esac
}
seen=$(
  on node -p '"Node " + process.versions.node'
  for made in "${names[@]}"; do
    on "$made" register.mjs >"$made.json"
    on node -p "const { offered, verified } = JSON.parse(fs.readFileSync('$made.json')); '$made offers ' + offered + ', registered: ' + verified"
    for used in "${names[@]}"; do echo "  login on $used: $(on "$used" login.mjs "$made.json")"; done
  done
)
echo "$seen"
refused="throws: This runtime's WebCrypto.subtle does not support use of ML-DSA-44"
[ "$seen" = "Node 22.23.2
deno offers -48,-8,-7,-257, registered: true
  login on deno: logged in
  login on bun: logged in
  login on node: $refused
bun offers -48,-8,-7,-257, registered: true
  login on deno: logged in
  login on bun: logged in
  login on node: $refused
node offers -8,-7,-257, registered: true
  login on deno: logged in
  login on bun: logged in
  login on node: logged in" ]
