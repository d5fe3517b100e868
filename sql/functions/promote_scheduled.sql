-- promote_scheduled: makes tasks ready whose backoff has passed. Called every second by maintenance.
create or replace function promote_scheduled(p_limit int, out promoted int, out ready int[])
language plpgsql
as $$
declare
  v_now timestamptz := dalston_now();
  v_capped uuid[];
begin
  with due as materialized (
    select id from tasks where state = 7 and run_at <= v_now order by run_at limit p_limit for update skip locked
  ), opened as (
    update tasks t set state = case when t.capped then 8 else 1 end, run_at = null, ready_at = v_now
      from due where t.id = due.id
    returning t.state, t.capability_id, t.tenant_id, t.capped
  )
  select count(*), array_agg(distinct capability_id) filter (where state = 1),
         array_agg(distinct tenant_id) filter (where capped)
    into promoted, ready, v_capped from opened;
  ready := coalesce(ready, '{}');
  if v_capped is not null then
    ready := ready || promote_held(v_capped, v_now);
  end if;
end
$$;
