import { expect, test } from 'bun:test'
import { createNoticeSender, withCountry } from '../../src/identity/notices.ts'
import { manualClock } from '../../src/kit/clock.ts'

test('an address is shown with the name of its country, and alone where that is not known', () => {
  expect(withCountry('192.0.2.1', 'DE')).toBe('192.0.2.1 (Germany)')
  expect(withCountry('192.0.2.1', 'GB')).toBe('192.0.2.1 (United Kingdom)')
  expect(withCountry('192.0.2.1', null)).toBe('192.0.2.1')
})

test('the mail about a new device says in which country it is', async () => {
  const sent: unknown[] = []
  const send = createNoticeSender({
    clock: manualClock(0),
    countryOf: (address) => (address === '192.0.2.1' ? 'DE' : null),
    mail: { isConfigured: true, enqueue: async (_, { parameters }) => void sent.push(parameters) },
    store: {
      takeUnsent: async (_since, _at, take) => {
        const notice = { userId: 'someone', kind: 'new_device', createdAt: new Date(0) } as const
        await take({} as never, { ...notice, details: { address: '192.0.2.1', user_agent: 'Firefox' } })
        await take({} as never, { ...notice, details: { user_agent: 'Firefox' } })
        return 2
      },
    },
  })
  await send()
  expect(sent).toMatchObject([{ address: '192.0.2.1 (Germany)' }, { address: 'unknown' }])
})
