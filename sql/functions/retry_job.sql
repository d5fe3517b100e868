-- retry_job: opens everything of a failed or cancelled job that is not completed, with fresh attempts. Called by
-- operators and the API. Outcomes: done, refused (unfinished, completed, purged, without its audio, or cancelled when
-- everything was completed already), limit (the tenant has p_max_unfinished jobs already), missing.
create or replace function retry_job(p_job uuid, p_max_unfinished int default null, out outcome text, out status text, out ready int[])
language plpgsql
as $$
declare
  v_tasks uuid[];
  v_audio_key text;
  v_tenant uuid;
begin
  ready := '{}';
  select j.status, j.audio_key, j.tenant_id into status, v_audio_key, v_tenant from jobs j where j.id = p_job for no key update;
  if not found then
    outcome := 'missing';
    return;
  elsif status not in ('failed', 'cancelled') or v_audio_key is null
        or not exists (select from tasks where job_id = p_job and state <> 3) then
    outcome := 'refused';
    return;
  elsif unfinished_jobs(v_tenant, p_max_unfinished) >= p_max_unfinished then
    outcome := 'limit';
    return;
  end if;
  -- With what depends on them: in a job cancelled late, merge may be completed although an optional task is not.
  with recursive affected (id) as (
    select id from tasks where job_id = p_job and state <> 3
    union
    select d.id from affected a join tasks t on t.id = a.id cross join unnest(t.dependants) as d (id)
  )
  select array_agg(id) into v_tasks from affected;
  ready := reopen_tasks(p_job, v_tasks, dalston_now());
  status := 'running';
  outcome := 'done';
  -- Rare, and operators call this from psql: here a notification inside the transaction does no harm.
  perform pg_notify('dalston_tasks', array_to_string(ready, ','));
end
$$;
