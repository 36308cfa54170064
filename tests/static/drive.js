// Takes the steps of a plan through SessionView; answers what each step returned, and the state after it.

const shown = ({ attempt, state, detail, text, parts, reasoning, count, partial, end }) => ({
  attempt, state, detail, text, parts: [...parts], reasoning, count, partial, end,
});

function state(view) {
  return {
    cursor: view.cursor,
    last: view.last,
    waiting: view.waiting,
    messages: [...view.messages],
    order: [...view.generations.keys()],
    generations: Object.fromEntries([...view.generations].map(([name, generation]) => [name, shown(generation)])),
    interrupted: [...view.interrupted.keys()].sort(),
    missing: view.missing.sort(),
    lost: [...view.lost.keys()].sort(),
    rebuilding: view.rebuilding,
  };
}

export function drive(SessionView, session, steps) {
  const view = new SessionView(session);
  return steps.map(([name, argument]) => [view[name](...(argument == null ? [] : [argument])) ?? null, state(view)]);
}
