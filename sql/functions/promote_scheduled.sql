-- promote_scheduled: makes tasks ready whose backoff has passed. Called every second by maintenance.
create or replace function promote_scheduled(p_limit int, out promoted int, out ready int[])
language plpgsql
as $$
declare
  v_now timestamptz := dalston_now();
  v_due tasks[];
  v_capped uuid[];
begin
  with due as materialized (
    select id from tasks where run_at <= v_now order by run_at limit p_limit for no key update skip locked
  ), opened as (
    update tasks t set run_at = null from due where t.id = due.id returning t as task, t.tenant_id, t.slot
  )
  select count(*), coalesce(array_agg(task), '{}'), array_agg(distinct tenant_id) filter (where slot is not null)
    into promoted, v_due, v_capped from opened;
  ready := open_tasks(v_due, v_now);
  if v_capped is not null then
    ready := ready || promote_held(v_capped, v_now);
  end if;
end
$$;
