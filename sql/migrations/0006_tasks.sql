create domain kept_state as smallint check (value in (0, 3, 4, 5, 6));
create domain cap_slot as smallint check (value between 0 and 2);

comment on domain kept_state is 'State of a task as far as its row keeps it; see tasks.state.';
comment on domain cap_slot is 'Where a task stands in its tenant''s cap; see tasks.slot.';

create table tasks (
  -- Columns of fixed width that are never null come first: PostgreSQL finds those without walking the row.
  id               uuid primary key,
  job_id           uuid not null references jobs on delete cascade,
  tenant_id        uuid not null,
  fair_key         bigint not null,
  total_seconds    seconds not null,
  done_seconds     seconds not null default 0,
  capability_id    int not null,
  unmet            whole_number not null,
  priority         smallint not null,
  state            kept_state not null default 0,
  attempt          small_whole_number not null default 0,
  retries          small_whole_number not null default 0,
  crashes          small_whole_number not null default 0,
  max_attempts     positive_smallint not null,
  required         boolean not null,
  ends_job         boolean not null,
  starts_job       boolean not null,
  name             filled_text not null,
  slot             cap_slot,
  run_at           timestamptz,
  ready_at         timestamptz,
  started_at       timestamptz,
  completed_at     timestamptz,
  told_at          timestamptz,
  spawned_by       uuid,
  dependants       uuid[] not null default '{}',
  constraint task_names_are_unique_in_a_job unique (job_id, name),
  -- An ended task has an end, waits for no time and has no slot.
  constraint a_task_is_open_or_has_ended check (
    case when state = 0 then completed_at is null else completed_at is not null and run_at is null and coalesce(slot, 0) = 0 end)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Nothing that an ordinary completion writes is in an index, so that it is a heap-only update: a new version of the row
-- on the same page and no index entry. Hence run_at and slot beside state, and the two tables below.
create index tasks_scheduled on tasks (run_at) where run_at is not null;
create index tasks_held on tasks (tenant_id, priority, fair_key, id) where slot = 1;
create index tasks_in_slots on tasks (tenant_id) where slot = 2;

comment on table tasks is 'The steps of jobs: the facts about each and how it ended. That it can be claimed or runs is said by ready_tasks and running_tasks; what it is given and answers is in task_payloads. Read it through the view task_overview, which names the states.';
comment on column tasks.id is 'The task; UUID version 7, made by the planner.';
comment on column tasks.job_id is 'Its job.';
comment on column tasks.tenant_id is 'The job''s tenant. No foreign key: the job''s holds.';
comment on column tasks.fair_key is 'Place in the fair order between tenants, from the job.';
comment on column tasks.run_at is 'When its next attempt may begin; only while scheduled (backoff).';
comment on column tasks.ready_at is 'When it last could be claimed, or was held; while it is ready or running see there.';
comment on column tasks.started_at is 'When the last attempt that ended began.';
comment on column tasks.completed_at is 'When it reached a final state.';
comment on column tasks.total_seconds is 'Audio it covers: the weight of its progress.';
comment on column tasks.done_seconds is 'Audio done, a high-water mark over all attempts.';
comment on column tasks.told_at is 'When a heartbeat last raised done_seconds.';
comment on column tasks.capability_id is 'What a worker must be able to run. No foreign key: capabilities are never deleted, and checking would lock the same few rows in every submit.';
comment on column tasks.unmet is 'Needs that are not done yet, while the task is pending. Whoever completes one counts down; whoever completes the last one makes the task ready and need not write 0 here.';
comment on column tasks.state is '0 open, 3 completed, 4 failed, 5 skipped, 6 cancelled. The view current_tasks tells the open ones apart: 0 pending, 1 ready, 2 running, 7 scheduled, 8 held; task_state() names them.';
comment on column tasks.slot is 'Only where the tenant has a max_running, else null: 1 held (waits for a slot), 2 ready or running in one, 0 otherwise.';
comment on column tasks.priority is 'Lower runs first, from the job.';
comment on column tasks.attempt is 'Attempts that ended; one handed back does not count.';
comment on column tasks.retries is 'Attempts that failed, crashes included.';
comment on column tasks.crashes is 'Attempts whose worker stopped answering; three end the task.';
comment on column tasks.max_attempts is 'Attempts allowed in all.';
comment on column tasks.required is 'False when its failure only leaves a warning.';
comment on column tasks.ends_job is 'Nothing depends on it: it counts in jobs.open_ends.';
comment on column tasks.starts_job is 'It needs nothing, so claiming it may start its job.';
comment on column tasks.spawned_by is 'The task that added it while running; null for tasks of the plan.';
comment on column tasks.name is 'Name within the job: the stage, or the stage with a channel or chunk.';
comment on column tasks.dependants is 'The tasks of the job that wait for it, each of which counts it in unmet until it is done. Kept here, so that whoever writes the end of a task has them at hand; task_edges shows them as pairs.';

-- The claim: one short range scan per capability, whatever lies behind it.
create table ready_tasks (
  capability_id int not null,
  priority      smallint not null,
  fair_key      bigint not null,
  place         bigint not null generated by default as identity,
  job_id        uuid not null,
  starts_job    boolean not null,
  ready_at      timestamptz not null,
  attempt       small_whole_number not null,
  tasks         some_ids not null,
  names         text[] not null,
  primary key (capability_id, priority, fair_key, place)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

comment on table ready_tasks is 'The tasks that may be claimed now, in the order of claims. A row has one task, or up to 16 of one job that became ready together; claims take them from the front. Written by queue_tasks() and by the claim.';
comment on column ready_tasks.capability_id is 'What a worker must be able to run.';
comment on column ready_tasks.priority is 'Lower runs first, as in tasks.';
comment on column ready_tasks.fair_key is 'Place in the fair order between tenants, as in tasks.';
comment on column ready_tasks.place is 'Grows: of equals, what became ready first is claimed first.';
comment on column ready_tasks.job_id is 'The job. No foreign key, because checking one would lock the job''s row; a job is deleted only when nothing of it is here.';
comment on column ready_tasks.starts_job is 'Claiming these tasks may start the job.';
comment on column ready_tasks.ready_at is 'Since when they can be claimed.';
comment on column ready_tasks.attempt is 'Attempts of each that ended.';
comment on column ready_tasks.tasks is 'The tasks, oldest first.';
comment on column ready_tasks.names is 'Their names, in the same order: a claim answers them without reading tasks.';

create sequence task_leases;

create table running_tasks (
  -- A claim is not waited for to reach the disk, and a crash may set a sequence back: the random part keeps a token that
  -- a worker still holds from being given out again.
  lease            bigint primary key default (nextval('task_leases') << 20) + floor(random() * 1048576)::bigint,
  job_id           uuid not null,
  worker_id        uuid not null,
  ready_at         timestamptz not null,
  started_at       timestamptz not null,
  lease_expires_at timestamptz not null,
  tasks            some_ids not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

create index running_tasks_of_job on running_tasks (job_id);

-- There are at most as many rows as the fleet has slots: rescue and "what does this worker hold" read them all, and
-- heartbeats, which write no column of an index, stay heap-only updates.
comment on table running_tasks is 'The leases: who runs what until when. A row has what one claim took of one job, normally one task. Put in by the claim; whoever ends attempts takes their tasks out, and the row with the last.';
comment on column running_tasks.lease is 'Fencing token: grows from claim to claim (one sequence for all, and 20 random bits), and is never used twice. Complete, fail and extend change nothing unless they carry it.';
comment on column running_tasks.job_id is 'The tasks'' job. No foreign key, as in ready_tasks.';
comment on column running_tasks.worker_id is 'Who runs them.';
comment on column running_tasks.ready_at is 'When they became ready, from ready_tasks.';
comment on column running_tasks.started_at is 'When they were claimed.';
comment on column running_tasks.lease_expires_at is 'Until when the worker holds them unless it says more, which it does for all of them at once.';
comment on column running_tasks.tasks is 'The tasks that run.';
