-- task_edges: which task needs which.
create view task_edges as
select t.job_id, t.id as parent_id, d.id as child_id from tasks t cross join unnest(t.dependants) as d (id);

comment on view task_edges is 'Which task needs which: the child waits for the parent. Give it a job_id, or a parent_id; by child alone it reads all tasks.';
comment on column task_edges.job_id is 'The job of both.';
comment on column task_edges.parent_id is 'Must be done first.';
comment on column task_edges.child_id is 'Waits for it; counts it in tasks.unmet until then.';
