import { expect, test } from 'bun:test'
import { findCpuQuota } from '../../src/platform/cpu-quota.ts'

const quotaIn = (files: Readonly<Record<string, string>>) => findCpuQuota((path) => files[path])

test('the CPU quota of a container is read from its control group, of version 2 or 1, mounted as the root or not', () => {
  expect(quotaIn({ '/proc/self/cgroup': '0::/\n', '/sys/fs/cgroup/cpu.max': '150000 100000\n' })).toBe(1.5)
  expect(quotaIn({ '/proc/self/cgroup': '0::/a/b\n', '/sys/fs/cgroup/a/b/cpu.max': '200000 100000\n' })).toBe(2)
  const first = { '/proc/self/cgroup': '4:memory:/m\n3:cpu,cpuacct:/docker/x\n' }
  const ofFirst = (folder: string) => ({
    ...first,
    [`/sys/fs/cgroup/cpu${folder}/cpu.cfs_quota_us`]: '50000\n',
    [`/sys/fs/cgroup/cpu${folder}/cpu.cfs_period_us`]: '100000\n',
  })
  expect(quotaIn(ofFirst(''))).toBe(0.5)
  expect(quotaIn(ofFirst('/docker/x'))).toBe(0.5)
})

test('a machine without control groups, or with groups without a quota, has no CPU quota', () => {
  expect(quotaIn({})).toBeUndefined()
  expect(quotaIn({ '/proc/self/cgroup': '0::/\n', '/sys/fs/cgroup/cpu.max': 'max 100000\n' })).toBeUndefined()
  expect(
    quotaIn({
      '/proc/self/cgroup': '1:cpu:/\n',
      '/sys/fs/cgroup/cpu/cpu.cfs_quota_us': '-1\n',
      '/sys/fs/cgroup/cpu/cpu.cfs_period_us': '100000\n',
    }),
  ).toBeUndefined()
  expect(quotaIn({ '/proc/self/cgroup': 'nonsense', '/sys/fs/cgroup/cpu.max': '' })).toBeUndefined()
})
