create table tasks (
  id               uuid primary key,
  job_id           uuid not null references jobs on delete cascade,
  tenant_id        uuid not null,
  lease            bigint not null default 0,
  fair_key         bigint not null,
  lease_expires_at timestamptz,
  run_at           timestamptz,
  ready_at         timestamptz,
  started_at       timestamptz,
  completed_at     timestamptz,
  total_seconds    double precision not null check (total_seconds >= 0),
  done_seconds     double precision not null default 0,
  capability_id    int not null,
  unmet            int not null check (unmet >= 0),
  state            smallint not null check (state between 0 and 8),
  priority         smallint not null,
  attempt          smallint not null default 0 check (attempt >= 0),
  retries          smallint not null default 0 check (retries >= 0),
  crashes          smallint not null default 0 check (crashes >= 0),
  max_attempts     smallint not null check (max_attempts > 0),
  required         boolean not null,
  ends_job         boolean not null,
  starts_job       boolean not null,
  capped           boolean not null,
  worker_id        uuid,
  spawned_by       uuid,
  name             text not null check (name <> ''),
  constraint task_names_are_unique_in_a_job unique (job_id, name),
  constraint a_running_task_has_a_lease check ((state = 2) = (worker_id is not null) and (state = 2) = (lease_expires_at is not null)),
  constraint a_finished_task_has_an_end check ((state in (3, 4, 5, 6)) = (completed_at is not null)),
  constraint a_scheduled_task_has_a_time check ((state = 7) = (run_at is not null)),
  constraint a_waiting_task_waits_for_something check (state <> 0 or unmet > 0),
  constraint an_open_task_waits_for_nothing check (state not in (1, 2, 3, 7, 8) or unmet = 0),
  constraint only_capped_tasks_are_held check (state <> 8 or capped)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- The claim: one short range scan per capability, whatever lies behind it.
create index tasks_ready on tasks (capability_id, priority, fair_key, id) where state = 1;
-- Rescue and "what does this worker hold". The lease's end is not in it, so that heartbeats stay heap-only updates.
create index tasks_running on tasks (worker_id) where state = 2;
create index tasks_scheduled on tasks (run_at) where state = 7;
create index tasks_held on tasks (tenant_id, priority, fair_key, id) where state = 8;
create index tasks_active_of_capped_tenant on tasks (tenant_id) where capped and state in (1, 2);

comment on table tasks is 'The steps of jobs: the hot, narrow part that claims and heartbeats touch. What a task is given and answers is in task_payloads. Read it through the view task_overview, which names the states.';
comment on column tasks.id is 'The task; UUID version 7, made by the planner.';
comment on column tasks.job_id is 'Its job.';
comment on column tasks.tenant_id is 'The job''s tenant. No foreign key: the job''s holds.';
comment on column tasks.lease is 'Fencing token: one more at every claim, never reset. Complete, fail and extend change nothing unless they carry it.';
comment on column tasks.fair_key is 'Place in the fair order between tenants, from the job.';
comment on column tasks.lease_expires_at is 'Until when the worker holds it unless it says more; only while running.';
comment on column tasks.run_at is 'When its next attempt may begin; only while scheduled.';
comment on column tasks.ready_at is 'When all its needs were done.';
comment on column tasks.started_at is 'When the current or last attempt began.';
comment on column tasks.completed_at is 'When it reached a final state.';
comment on column tasks.total_seconds is 'Audio it covers: the weight of its progress.';
comment on column tasks.done_seconds is 'Audio done, a high-water mark over all attempts.';
comment on column tasks.capability_id is 'What a worker must be able to run. No foreign key: capabilities are never deleted, and checking would lock the same few rows in every submit.';
comment on column tasks.unmet is 'Needs that are not done yet. Counted down by whoever completes one, which is why two that finish at once lose nothing.';
comment on column tasks.state is '0 pending, 1 ready, 2 running, 3 completed, 4 failed, 5 skipped, 6 cancelled, 7 scheduled (backoff), 8 held (its tenant is at its cap). task_state() names them.';
comment on column tasks.priority is 'Lower runs first, from the job.';
comment on column tasks.attempt is 'Number of the current or last attempt, from 1; an attempt handed back does not count.';
comment on column tasks.retries is 'Attempts that failed, crashes included.';
comment on column tasks.crashes is 'Attempts whose worker stopped answering; three end the task.';
comment on column tasks.max_attempts is 'Attempts allowed in all.';
comment on column tasks.required is 'False when its failure only leaves a warning.';
comment on column tasks.ends_job is 'Nothing depends on it: it counts in jobs.open_ends.';
comment on column tasks.starts_job is 'It needs nothing, so claiming it may start its job.';
comment on column tasks.capped is 'Its tenant has a max_running, so it counts against that.';
comment on column tasks.worker_id is 'Who runs it; only while running.';
comment on column tasks.spawned_by is 'The task that added it while running; null for tasks of the plan.';
comment on column tasks.name is 'Name within the job: the stage, or the stage with a channel or chunk.';
