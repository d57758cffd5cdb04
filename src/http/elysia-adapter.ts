import type { ElysiaAdapter } from 'elysia'
import { WebStandardAdapter } from 'elysia/adapter/web-standard'
import { readJson } from './body.ts'

const read = () => 'c.body=await readJson(c.request,c.context.deadline)\n'

/**
 * How Elysia meets its surroundings: as on any runtime with web standards, but a body is read by `readJson`, whatever type
 * it says it has. In front of an `onParse` Elysia looks at `request.body`, which makes a stream of what is read in one piece.
 */
export const adapter: ElysiaAdapter = {
  ...WebStandardAdapter,
  composeHandler: {
    ...WebStandardAdapter.composeHandler,
    inject: { readJson },
    parser: { json: read, text: read, urlencoded: read, arrayBuffer: read, formData: read },
  },
}
