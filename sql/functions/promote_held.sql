-- promote_held: makes as many held tasks of these tenants ready as their caps leave room for, and answers the
-- capabilities they need. Called last by every verb that opened or ended tasks of a capped tenant: the tenant's row is
-- last in the lock order, and holding it makes the count exact.
create or replace function promote_held(p_tenants uuid[], p_now timestamptz) returns int[]
language plpgsql
as $$
declare
  v_tenant record;
  v_free int;
  v_tasks tasks[];
  v_ready int[] := '{}';
begin
  for v_tenant in select id, max_running from tenants where id = any(p_tenants) order by id for no key update loop
    if v_tenant.max_running is null then
      v_free := 2147483647;
    else
      select v_tenant.max_running - count(*) into v_free from tasks where tenant_id = v_tenant.id and slot = 2;
    end if;
    continue when v_free <= 0;
    with next as materialized (
      select id from tasks where tenant_id = v_tenant.id and slot = 1
       order by priority, fair_key, id limit v_free for no key update skip locked
    ), promoted as (
      update tasks t set slot = 2 from next where t.id = next.id returning t as task
    )
    select array_agg(task) into v_tasks from promoted;
    continue when v_tasks is null;
    v_ready := v_ready || queue_tasks(v_tasks, p_now);
  end loop;
  return v_ready;
end
$$;
