-- retry_task: runs one failed, skipped or cancelled task of a finished job again, and everything that depends on it;
-- what else is completed stays. In a failed or cancelled job everything that is not completed is opened too, because the
-- job cannot end without it. Called by operators and the API. Outcomes: done, refused,
-- limit (the tenant has p_max_unfinished jobs already), missing.
create or replace function retry_task(p_task uuid, p_max_unfinished int default null, out outcome text, out status text, out ready int[])
language plpgsql
as $$
declare
  v_job record;
  v_tasks uuid[];
begin
  ready := '{}';
  select j.id, j.status, j.audio_key, j.tenant_id into v_job
    from jobs j where j.id = (select job_id from tasks where id = p_task) for no key update;
  if not found then
    outcome := 'missing';
    return;
  end if;
  status := v_job.status;
  if status not in ('completed', 'failed', 'cancelled') or v_job.audio_key is null
     or not exists (select from tasks where id = p_task and state in (4, 5, 6)) then
    outcome := 'refused';
    return;
  elsif unfinished_jobs(v_job.tenant_id, p_max_unfinished) >= p_max_unfinished then
    outcome := 'limit';
    return;
  end if;

  with recursive affected (id) as (
    select p_task
    union
    select d.id from affected a join tasks t on t.id = a.id cross join unnest(t.dependants) as d (id)
  )
  select array_agg(t.id) into v_tasks
    from tasks t
   where t.job_id = v_job.id
     and (t.id in (select id from affected) or (status <> 'completed' and t.state <> 3));
  ready := reopen_tasks(v_job.id, v_tasks, dalston_now());
  status := 'running';
  outcome := 'done';
  perform pg_notify('dalston_tasks', array_to_string(ready, ','));
end
$$;
