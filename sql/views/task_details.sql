-- task_details: a task as the API reads it.
create view task_details as
select t.id, t.job_id, k.stage, t.name, k.engine, k.model, task_status(t.state) as status, t.required,
       array(select e.parent_id from task_edges e where e.job_id = t.job_id and e.child_id = t.id order by e.parent_id) as dependencies,
       t.retries::int as retries, t.max_attempts::int as max_attempts, t.ready_at, t.started_at, t.completed_at,
       case when t.state in (4, 5, 7) then p.error end as error, p.chosen_because, p.request, p.response
  from current_tasks t
  join capabilities k on k.id = t.capability_id
  left join task_payloads p on p.task_id = t.id;

comment on view task_details is 'A task as the API reads it. Operators look at task_overview.';
comment on column task_details.id is 'The task.';
comment on column task_details.job_id is 'Its job.';
comment on column task_details.ready_at is 'When it became ready for the current or last attempt.';
comment on column task_details.started_at is 'When the current or last attempt began.';
comment on column task_details.status is 'State as a user sees it.';
comment on column task_details.dependencies is 'Tasks that must be done first.';
comment on column task_details.error is 'Why it failed, while that matters.';
