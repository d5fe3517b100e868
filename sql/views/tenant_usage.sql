-- tenant_usage: what each tenant has in the queue and has used.
create view tenant_usage as
select n.id, n.name, n.weight, n.max_running,
       (select count(*) from jobs j where j.tenant_id = n.id and j.completed_at is null) as unfinished_jobs,
       coalesce(a.ready, 0) as ready_tasks, coalesce(a.running, 0) as running_tasks,
       (select count(*) from tasks t where t.tenant_id = n.id and t.slot = 1) as held_tasks,
       coalesce(d.jobs, 0) as jobs_last_day, coalesce(d.audio_hours, 0) as audio_hours_last_day
  from tenants n
  left join (select tenant_id, count(*) filter (where state = 1) as ready, count(*) filter (where state = 2) as running
               from (select j.tenant_id, 1 as state from ready_tasks q cross join unnest(q.tasks) join jobs j on j.id = q.job_id
                     union all
                     select j.tenant_id, 2 from running_tasks r cross join unnest(r.tasks) join jobs j on j.id = r.job_id) open group by 1) a on a.tenant_id = n.id
  left join (select tenant_id, count(*) as jobs, round((sum(audio_duration_seconds) / 3600)::numeric, 2) as audio_hours
               from jobs where completed_at > dalston_now() - interval '1 day' group by 1) d on d.tenant_id = n.id
 order by n.name;

comment on view tenant_usage is 'What each tenant has in the queue, and what was finished for it in the last day.';
comment on column tenant_usage.id is 'The tenant.';
comment on column tenant_usage.unfinished_jobs is 'Jobs that have not ended.';
comment on column tenant_usage.ready_tasks is 'Tasks that may be claimed now.';
comment on column tenant_usage.running_tasks is 'Tasks being run.';
comment on column tenant_usage.jobs_last_day is 'Jobs finished in the last day.';
comment on column tenant_usage.max_running is 'Its cap on ready and running tasks; null is none.';
comment on column tenant_usage.held_tasks is 'Tasks waiting for its cap.';
comment on column tenant_usage.audio_hours_last_day is 'Hours of audio in jobs finished in the last day.';
