import { blackBoxOn } from './black-box/runtime.ts'

blackBoxOn('bun')
