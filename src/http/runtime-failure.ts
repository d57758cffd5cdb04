import { Fault } from '../fault.ts'
import { createTraceIds } from '../kit/trace-id.ts'
import type { Log } from '../platform/log.ts'
import { createResponder } from './responder.ts'

/** The response to a request whose own response the runtime could not send. The request is not known any more. */
export const createFailureResponse = (log: Log): ((error: unknown) => Response) => {
  const responder = createResponder([])
  const newTraceId = createTraceIds()
  return (error) => {
    const requestId = newTraceId()
    log.error({ code: 'server.failed', request_id: requestId, error }, 'the response could not be sent')
    const fault = new Fault('server.failed', { cause: error })
    return responder.problem(fault, '/', { requestId, origin: null, challenge: undefined })
  }
}
