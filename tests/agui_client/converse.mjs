// A conversation by AG-UI's own client. argv: the address, a token, and the runs to make, as JSON:
// [{message?, state?, tools?, forwardedProps?, payload?, returned?}], where a payload answers what the run before
// waits for, and `returned` is what came of the tool that it has called last.
// Prints what each came to.
import { HttpAgent } from "@ag-ui/client";

const [url, token, runs] = process.argv.slice(2);
const agent = new HttpAgent({
  url: `${url}/api/agent`,
  headers: { Authorization: `Bearer ${token}` },
});
const told = [];

for (const { message, payload, returned, state, ...parameters } of JSON.parse(runs)) {
  const events = [];
  if (message) agent.addMessage({ id: crypto.randomUUID(), role: "user", content: message });
  if (state) agent.setState(state);
  if (returned) {
    const [{ id: toolCallId }] = agent.messages.findLast((it) => it.toolCalls).toolCalls;
    agent.addMessage({ id: crypto.randomUUID(), role: "tool", toolCallId, content: returned });
  }
  if (payload) {
    parameters.resume = agent.pendingInterrupts.map(({ id }) => ({
      interruptId: id,
      status: "resolved",
      payload,
    }));
  }
  const { result, newMessages } = await agent.runAgent(parameters, {
    onEvent: ({ event }) => void events.push(event.type),
  });
  told.push({
    events,
    result: result ?? null,
    messages: newMessages,
    state: agent.state,
    interrupts: agent.pendingInterrupts,
  });
}
console.log(JSON.stringify(told));
