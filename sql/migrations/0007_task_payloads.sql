create table task_payloads (
  task_id        uuid primary key references tasks on delete cascade,
  request        jsonb not null,
  response       jsonb,
  error          text,
  chosen_because text
) with (fillfactor = 70);

comment on table task_payloads is 'The wide part of tasks, kept apart because every change of state rewrites a task''s row.';
comment on column task_payloads.task_id is 'The task.';
comment on column task_payloads.request is 'What it is given.';
comment on column task_payloads.response is 'What it answered; null until completed and after the job is purged.';
comment on column task_payloads.error is 'What its last failed attempt said.';
comment on column task_payloads.chosen_because is 'Why this engine and model were chosen.';
