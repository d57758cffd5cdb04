import type { RecheckedPermission } from '../../access/permission-recheck.ts'
import type { Caller } from '../../access/principal.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { Generation } from '../model.ts'
import { doneText, type Hub } from './hub.ts'
import { isOver, parseEventId } from './state.ts'

type Dependencies = {
  readonly hub: Pick<Hub, 'open'>
  readonly get: (context: RequestContext, caller: Caller, id: string) => Promise<Generation>
}

/**
 * How one generation goes, as it goes. A stream brings a client's knowledge up to date and is no log of what happened: what
 * came and went meanwhile is not told, and a client that comes again is told what is news since `lastEventId`.
 */
export const createGenerationStream =
  ({ hub, get }: Dependencies) =>
  /** Text: it is over, and this is the last word. Undefined: the client has that already. */
  async (
    context: RequestContext,
    caller: Caller,
    right: RecheckedPermission,
    lastEventId: string | null,
  ): Promise<ReadableStream<Uint8Array> | string | undefined> => {
    const { id } = right.ref
    const generation = await get(context, caller, id)
    const told = parseEventId(lastEventId)
    if (!isOver(generation.status)) return hub.open(id, right, told)
    return told?.status === generation.status ? undefined : doneText(generation)
  }

export type GenerationStream = ReturnType<typeof createGenerationStream>
