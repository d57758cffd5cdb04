import { describe, expect, test } from 'bun:test'
import { describeStartFailure, describeStorageFailure, type StartSettings } from '../../src/boot/start-failure.ts'
import { StartFailed } from '../../src/boot/supervisor.ts'
import { ConfigRefused } from '../../src/config.ts'
import { SecretMismatch } from '../../src/identity/signing-keys.ts'
import { MigrationRefused } from '../../src/platform/migrate.ts'
import { DatabaseUnfit } from '../../src/platform/route.ts'
import { SealRefused } from '../../src/platform/secrets.ts'
import { PortTaken } from '../../src/platform/serve.ts'

const settings: StartSettings = {
  host: '203.0.113.9',
  port: 80,
  databaseUrl: 'postgres://ada:hunter2@db.example.com:5433/velro?sslmode=require',
  dataDirectory: '/data',
  mediaDirectory: '/data/media',
}
const embedded: StartSettings = { ...settings, databaseUrl: undefined }

const failure = (code: string, message = 'detail', more: object = {}) =>
  Object.assign(new Error(message), { code, ...more })

describe('a start failure is one line that names the cause, the variable and the remedy', () => {
  const cases: [cause: string, error: unknown, line: string | RegExp][] = [
    [
      'a wrong password',
      failure('28P01'),
      /^Postgres at db\.example\.com:5433 refused the password of user "ada"\. .*DATABASE_URL\.$/,
    ],
    [
      'an account that pg_hba.conf refuses',
      failure('28000', 'no pg_hba.conf entry'),
      /no pg_hba\.conf entry.*DATABASE_URL/,
    ],
    ['a database that does not suit', new DatabaseUnfit('Set pool_mode.'), 'Set pool_mode.'],
    ['a missing database', failure('3D000'), /has no database "velro"\. Create it, .*DATABASE_URL\.$/],
    [
      'no right to the schema',
      failure('42501', 'permission denied for schema public'),
      /permission denied for schema public\. Grant user "ada" .*DATABASE_URL\.$/,
    ],
    ['a server without a free connection', failure('53300'), /no connection left\. .*DB_CONNECTIONS/],
    ['a server that starts up', failure('57P03', 'the database system is starting up'), /not ready.*starting up/],
    [
      'a refused connection',
      failure('ECONNREFUSED'),
      /^Nothing accepts connections at db\.example\.com:5433\. .*DATABASE_URL\.$/,
    ],
    ['an unknown host', failure('ENOTFOUND'), /^The host of db\.example\.com:5433 is unknown\. .*DATABASE_URL/],
    ['a server that does not answer', failure('CONNECT_TIMEOUT'), /does not answer\. .*DATABASE_URL/],
    ['a server that closes the connection', failure('CONNECTION_CLOSED'), /closed the connection\. .*DATABASE_URL/],
    [
      'a socket that is missing',
      failure('ENOENT', 'no socket', { syscall: 'connect' }),
      /cannot be reached \(no socket\)\. Correct DATABASE_URL\.$/,
    ],
    [
      'another SECRET',
      new SecretMismatch('sealed'),
      /sealed with another SECRET\. Set SECRET to the value that the other instances use, or SECRET_PREVIOUS to the value that it replaced\.$/,
    ],
    [
      'a key that was sealed under a secret that was removed too early',
      new SealRefused('wrapped-key', 'unknown_secret'),
      /^A sealed value of the kind wrapped-key was sealed under another SECRET\. Set SECRET_PREVIOUS to .*\.$/,
    ],
    [
      'a media directory that is not writable',
      failure('EACCES', 'x', { path: '/data/media' }),
      /^Cannot write to \/data\/media: permission denied\. .*MEDIA_DIR/,
    ],
    [
      'a data directory on a read-only file system',
      failure('EROFS', 'x', { path: '/data' }),
      /read-only.*(MEDIA|DATA)_DIR/,
    ],
    [
      'a directory below a file',
      failure('ENOTDIR', 'x', { path: '/data/postgres' }),
      /^Cannot write to \/data: part of the path is a file\. .*DATA_DIR/,
    ],
    [
      'an address of another machine',
      failure('EADDRNOTAVAIL'),
      /^The address 203\.0\.113\.9 is not one of this machine\. Set HOST/,
    ],
    ['a host name that does not resolve, on Bun', failure('ENOTTY', 'ENOTTY: inappropriate ioctl, listen'), /Set HOST/],
    ['a host name that does not resolve, on Deno', new Error('failed to lookup address information: x'), /Set HOST/],
    [
      'an IPv6 address where there is no IPv6, on Bun',
      failure('EAFNOSUPPORT', 'EAFNOSUPPORT: address family not supported, listen', { syscall: 'listen' }),
      /^The address .* Set HOST to an address of this machine, or leave it unset/,
    ],
    [
      'an IPv6 address where there is no IPv6, on Deno',
      new Error('Address family not supported by protocol (os error 97)'),
      /^The address .* Set HOST to an address of this machine, or leave it unset/,
    ],
    [
      'a port below 1024',
      failure('EACCES', 'EACCES: permission denied, listen'),
      /^This process may not listen on port 80\. Set PORT/,
    ],
    ['a port that is taken', new PortTaken('Port 80 is taken. Set PORT.'), 'Port 80 is taken. Set PORT.'],
    ['a refused migration', new MigrationRefused('000001_a.sql was edited.'), '000001_a.sql was edited.'],
    [
      'a configuration with two errors',
      new ConfigRefused(['PORT must be 1', 'HOST must be 2']),
      'Invalid configuration: PORT must be 1; HOST must be 2.',
    ],
    [
      'a first process that a signal ended',
      new StartFailed({ code: null, signal: 'SIGKILL' }),
      /first process ended by SIGKILL\.$/,
    ],
    ['an unknown error', new Error('one\n  two.'), 'Velro could not start: one; two.'],
    ['a value that is no error', 'odd', 'Velro could not start: odd.'],
  ]
  for (const [cause, error, expected] of cases) {
    test(cause, () => {
      const line = describeStartFailure(error, settings)
      expect(line).toMatch(expected)
      expect(line).not.toMatch(/\n|hunter2|\bat \w+ \(/)
    })
  }

  test('the cause of an error decides where the error itself says nothing', () => {
    const error = new Error('Failed query', { cause: failure('3D000') })
    expect(describeStartFailure(error, settings)).toContain('has no database')
  })

  test('a URL without host and user names the variables that the driver reads instead', () => {
    const line = describeStartFailure(failure('28P01'), { ...settings, databaseUrl: 'postgres:///velro' })
    expect(line).toContain('Postgres at PGHOST refused the password of user "PGUSER"')
  })

  test('a failure of the embedded Postgres names DATA_DIR and DATABASE_URL', () => {
    const line = describeStartFailure(new Error('Embedded Postgres in /data: the disk is full'), embedded)
    expect(line).toMatch(/^Embedded Postgres in \/data: the disk is full\. Set DATA_DIR .* DATABASE_URL/)
  })

  test('another SECRET of the embedded database names the file with the right one', () => {
    expect(describeStartFailure(new SecretMismatch('sealed'), embedded)).toContain('/data/secret')
  })

  test('media that cannot be stored are reported with the place, the reason and the remedy', () => {
    const full = new Error('The draft was not written', { cause: failure('ENOSPC') })
    expect(describeStorageFailure(full, { mediaDirectory: '/data/media', s3: undefined })).toBe(
      'Media cannot be stored in /data/media: the disk is full. Uploads and generations fail until they can. Make it writable with room to spare, or set MEDIA_DIR to another directory.',
    )
    const s3 = {
      endpoint: 'http://minio:9000',
      region: 'eu-central-1',
      bucket: 'velro',
      accessKeyId: 'id',
      secretAccessKey: 'hunter2',
    }
    const gone = new Error('failed', { cause: failure('ECONNREFUSED', 'Unable to connect?') })
    expect(describeStorageFailure(gone, { mediaDirectory: '/data/media', s3 })).toBe(
      'Media cannot be stored in the bucket velro at http://minio:9000: nothing accepts connections there. Uploads and generations fail until they can. Check the S3_ variables, and the network between.',
    )
  })

  test('a reason that the first process has reported is not repeated', () => {
    expect(describeStartFailure(new StartFailed({ code: 1, signal: null }), settings)).toBeUndefined()
  })
})
