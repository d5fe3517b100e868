-- task_overview: every task on one line with its state by name.
create view task_overview as
select t.id, t.job_id, t.name, task_state(t.state) as state, k.stage, k.engine, k.model, w.hostname as worker, t.worker_id,
       t.attempt, t.retries, t.crashes, t.max_attempts, t.required, t.unmet, t.priority,
       round((100 * t.done_seconds / nullif(t.total_seconds, 0))::numeric, 1) as percent,
       t.ready_at, t.started_at, t.completed_at, t.run_at, t.lease, t.lease_expires_at,
       t.lease_expires_at - dalston_now() as lease_left, p.error, p.chosen_because
  from current_tasks t
  join capabilities k on k.id = t.capability_id
  left join task_payloads p on p.task_id = t.id
  left join workers w on w.id = t.worker_id;

comment on view task_overview is 'Every task on one line with its state by name.';
comment on column task_overview.id is 'The task.';
comment on column task_overview.job_id is 'Its job.';
comment on column task_overview.priority is 'Lower is claimed first; that of its job.';
comment on column task_overview.percent is 'Share of its audio that is done.';
comment on column task_overview.ready_at is 'When it became ready for the current or last attempt.';
comment on column task_overview.started_at is 'When the current or last attempt began.';
comment on column task_overview.state is 'pending, ready, running, completed, failed, skipped, cancelled, scheduled (waits for its next attempt) or held (its tenant is at its cap).';
comment on column task_overview.worker is 'Host that runs it.';
comment on column task_overview.unmet is 'Needs that are not done yet.';
comment on column task_overview.lease_left is 'Time until it is rescued, unless its worker says more; negative is overdue.';
comment on column task_overview.error is 'What its last failed attempt said.';
