-- set_tenant_cap: sets the most tasks of a tenant that may be ready or running at a time; null lifts the cap. For
-- operators. Tasks of jobs submitted while it runs keep the old rule.
create or replace function set_tenant_cap(p_tenant uuid, p_max_running int) returns void
language plpgsql
as $$
declare
  v_now timestamptz;
  v_jobs uuid[];
begin
  -- Jobs, then tasks, then the tenant: the order of every other verb.
  select array_agg(id) into v_jobs
    from (select id from jobs where tenant_id = p_tenant and completed_at is null order by id for no key update) j;
  v_now := dalston_now();
  perform hold_tasks(v_jobs);
  if p_max_running is not null then
    update tasks t set slot = case when c.state in (1, 2) then 2 else 0 end
      from current_tasks c
     where c.job_id = any(v_jobs) and t.id = c.id and t.state = 0 and t.slot is null;
  end if;
  update tenants set max_running = p_max_running, updated_at = v_now where id = p_tenant;
  perform pg_notify('dalston_tasks', array_to_string(promote_held(array[p_tenant], v_now), ','));
  if p_max_running is null then
    update tasks set slot = null where job_id = any(v_jobs) and state = 0 and slot is not null;
  end if;
end
$$;
