-- reopen_tasks: sets ended tasks of a finished job back to the start, with fresh attempts, and the job to running.
-- Tasks that a reopened task had added are removed: it will add them again. Called by retry_job and retry_task, which
-- hold the job's row. Answers the capabilities that became ready.
create or replace function reopen_tasks(p_job uuid, p_tasks uuid[], p_now timestamptz) returns int[]
language plpgsql
as $$
declare
  v_tenant uuid;
  v_capped boolean;
  v_removed uuid[];
  v_open tasks[];
  v_ready int[];
begin
  with removed as (
    delete from tasks where job_id = p_job and spawned_by = any(p_tasks) returning id
  )
  select array_agg(id) into v_removed from removed;
  if v_removed is not null then
    update tasks set dependants = array(select unnest(dependants) except select unnest(v_removed))
     where job_id = p_job and dependants && v_removed;
  end if;
  update task_payloads set response = null, error = null where task_id = any(p_tasks);
  with need as materialized (
    select d.id as child_id, count(*)::int as unmet
      from tasks p cross join unnest(p.dependants) as d (id)
     where p.job_id = p_job and d.id = any(p_tasks) and (p.id = any(p_tasks) or p.state not in (3, 5))
     group by d.id
  ), reopened as (
    update tasks t
       set unmet = coalesce(n.unmet, 0), state = 0, ready_at = null, slot = case when t.slot is not null then 0 end,
           attempt = 0, retries = 0, crashes = 0, done_seconds = 0, started_at = null, completed_at = null, run_at = null
      from unnest(p_tasks) as a (id) left join need n on n.child_id = a.id
     where t.id = a.id
    returning t as task, t.unmet, t.slot
  )
  select array_agg(task) filter (where unmet = 0), bool_or(slot is not null) into v_open, v_capped from reopened;
  v_ready := open_tasks(coalesce(v_open, '{}'), p_now);

  update jobs
     set status = 'running', started_at = coalesce(started_at, p_now), completed_at = null, error = null,
         cancel_requested_at = null, purge_after = null,
         open_ends = (select count(*) from tasks where job_id = p_job and ends_job and state = 0)
   where id = p_job
  returning tenant_id into v_tenant;
  perform publish_job_states(array[p_job], p_now);
  if v_capped then
    v_ready := v_ready || promote_held(array[v_tenant], p_now);
  end if;
  return v_ready;
end
$$;
