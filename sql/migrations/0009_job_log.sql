create table job_log (
  id     bigint generated always as identity (increment by 65536) primary key,
  job_id uuid not null,
  at     timestamptz not null,
  type   filled_text not null,
  body   jsonb not null default '{}',
  tasks  uuid[]
);

create index job_log_of_job on job_log (job_id, id);

comment on table job_log is 'What happened to each job, append-only: the source of progress streams that can be replayed. Read it through the view job_history. Trimmed by trim_logs().';
comment on column job_log.id is 'Grows by 65536, so that the events of one row can be numbered from it.';
comment on column job_log.job_id is 'The job. No foreign key: heartbeats write here without locking the job.';
comment on column job_log.at is 'When.';
comment on column job_log.type is 'job.<status>, task.completed, task.retrying, task.failed, task.skipped, progress …';
comment on column job_log.body is 'More, as a JSON object.';
comment on column job_log.tasks is 'For task.completed, the tasks that were completed at once: one event each.';
