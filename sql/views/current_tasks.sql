-- current_tasks: every task with the state it is in now, put together from tasks, ready_tasks and running_tasks.
create view current_tasks as
select t.id, t.job_id, t.tenant_id, t.name, t.capability_id, t.priority, t.fair_key, t.slot, t.required, t.retries,
       t.crashes, t.max_attempts, t.total_seconds, t.run_at, t.completed_at, r.worker_id, r.lease, r.lease_expires_at,
       case when t.state <> 0 then t.state
            when r.lease is not null then 2
            when q.job_id is not null then 1
            when t.run_at is not null then 7
            when t.slot = 1 then 8
            else 0 end::smallint as state,
       case when t.state <> 0 or r.lease is not null or q.job_id is not null or t.run_at is not null or t.slot = 1 then 0
            else t.unmet end as unmet,
       case when r.lease is not null then t.attempt + 1 else t.attempt end as attempt,
       t.done_seconds, t.told_at,
       coalesce(q.ready_at, r.ready_at, t.ready_at) as ready_at,
       coalesce(r.started_at, t.started_at) as started_at
  from tasks t
  left join running_tasks r on r.job_id = t.job_id and t.id = any(r.tasks) and t.state = 0
  left join ready_tasks q
    on q.capability_id = t.capability_id and q.priority = t.priority and q.fair_key = t.fair_key and q.job_id = t.job_id
   and t.id = any(q.tasks) and t.state = 0;

comment on view current_tasks is 'Every task with the state it is in now. Operators look at task_overview.';
comment on column current_tasks.job_id is 'Its job.';
comment on column current_tasks.capability_id is 'What a worker must be able to run.';
comment on column current_tasks.priority is 'Lower is claimed first; that of its job.';
comment on column current_tasks.fair_key is 'Place in the fair order between tenants; smaller is claimed first.';
comment on column current_tasks.ready_at is 'When it became ready for the current or last attempt.';
comment on column current_tasks.started_at is 'When the current or last attempt began.';
comment on column current_tasks.worker_id is 'Who runs it.';
comment on column current_tasks.lease_expires_at is 'Until when its worker holds it, unless the worker says more.';
comment on column current_tasks.state is '0 pending, 1 ready, 2 running, 3 completed, 4 failed, 5 skipped, 6 cancelled, 7 scheduled (backoff), 8 held (its tenant is at its cap). task_state() names them.';
comment on column current_tasks.attempt is 'Number of the current or last attempt, from 1; an attempt handed back does not count.';
comment on column current_tasks.lease is 'Fencing token of the attempt that runs.';
comment on column current_tasks.unmet is 'Needs that are not done yet; only while pending.';
