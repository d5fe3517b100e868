create table task_edges (
  parent_id uuid not null references tasks on delete cascade,
  child_id  uuid not null references tasks on delete cascade,
  primary key (parent_id, child_id),
  constraint no_task_needs_itself check (parent_id <> child_id)
);

create index task_edges_by_child on task_edges (child_id);

comment on table task_edges is 'Which task needs which: the child waits for the parent.';
comment on column task_edges.parent_id is 'Must be done first.';
comment on column task_edges.child_id is 'Waits for it; counts it in tasks.unmet until then.';
