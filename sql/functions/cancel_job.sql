-- cancel_job: cancels a pending or running job. Open tasks are cancelled at once; running ones are stopped by their
-- workers, who learn of it by check_leases within a second, and the job is cancelling until the last has stopped.
-- Called by the API and by operators. Outcomes: done (running says how many tasks still run), refused (status says
-- why), missing.
create or replace function cancel_job(
  p_job uuid, out outcome text, out status text, out running int, out ready int[]
)
language plpgsql
as $$
declare
  v_now timestamptz;
  v_tenant uuid;
  v_capped boolean;
begin
  running := 0;
  ready := '{}';
  select j.status, j.tenant_id into status, v_tenant from jobs j where j.id = p_job for no key update;
  if not found then
    outcome := 'missing';
    return;
  elsif status not in ('pending', 'running') then
    outcome := 'refused';
    return;
  end if;

  v_now := dalston_now();
  perform withdraw_tasks(p_job);
  -- After that, in a statement of its own: a task that a claim took in that moment is running now.
  with cancelled as (
    update tasks t
       set state = 6, completed_at = v_now, run_at = null, slot = case when t.slot is not null then 0 end
     where t.job_id = p_job and t.state = 0
       and not exists (select from running_tasks r where r.job_id = p_job and t.id = any(r.tasks))
    returning t.slot
  )
  select bool_or(slot is not null) into v_capped from cancelled;
  select coalesce(sum(cardinality(r.tasks)), 0) into running from running_tasks r where r.job_id = p_job;
  update jobs j
     set status = case when running = 0 then 'cancelled' else 'cancelling' end,
         cancel_requested_at = v_now,
         completed_at = case when running = 0 then v_now end,
         purge_after = case when running = 0 and j.retention_days >= 0 then v_now + make_interval(days => j.retention_days) end
   where j.id = p_job
  returning j.status into status;
  perform publish_job_states(array[p_job], v_now);
  if v_capped then
    ready := promote_held(array[v_tenant], v_now);
  end if;
  outcome := 'done';
end
$$;
