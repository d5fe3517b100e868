-- job_overview: every job on one line. Start here: select * from job_overview limit 20;
create view job_overview as
select j.id, j.status, round((job_progress(j.id, j.status) * 100)::numeric, 1) as percent,
       job_stage(j.id, j.status) as stage, n.name as tenant, j.display_name as name,
       round(j.audio_duration_seconds::numeric, 1) as audio_s, j.priority, j.created_at,
       coalesce(j.started_at, j.completed_at, dalston_now()) - j.created_at as waited,
       case when j.started_at is not null then coalesce(j.completed_at, dalston_now()) - j.started_at end as ran,
       t.tasks, t.done, t.running, t.waiting, j.error, j.purge_after
  from jobs j
  join tenants n on n.id = j.tenant_id
  cross join lateral (
    select count(*) as tasks, count(*) filter (where state in (3, 5)) as done,
           count(*) filter (where state = 2) as running, count(*) filter (where state in (0, 1, 7, 8)) as waiting
      from current_tasks where job_id = j.id) t
 order by j.created_at desc;

comment on view job_overview is 'Every job on one line, newest first.';
comment on column job_overview.id is 'The job; UUID version 7, so ids sort by time.';
comment on column job_overview.tenant is 'Name of the tenant that owns it.';
comment on column job_overview.name is 'Name of the job, shown to people.';
comment on column job_overview.percent is 'Share of the work done.';
comment on column job_overview.stage is 'Stage being worked on.';
comment on column job_overview.audio_s is 'Length of the audio in seconds.';
comment on column job_overview.waited is 'From submit to first claim.';
comment on column job_overview.ran is 'From first claim to the end, or to now.';
comment on column job_overview.tasks is 'Tasks in all.';
comment on column job_overview.done is 'Tasks completed or skipped.';
comment on column job_overview.running is 'Tasks being run.';
comment on column job_overview.waiting is 'Tasks pending, ready, scheduled or held.';
