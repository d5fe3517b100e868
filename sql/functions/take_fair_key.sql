-- take_fair_key: files a job of p_seconds of audio in the fair order between tenants: answers its place and moves the
-- tenant on. Start-time fair queueing: the place is where the tenant stands, or the clock if the tenant was idle; the
-- cost is microseconds of audio over weight. Called by submit_job or, in a transaction of its own so that submits of
-- one tenant do not wait for each other's commits, before it. Null when there is no such tenant.
create or replace function take_fair_key(p_tenant uuid, p_seconds double precision) returns bigint
language plpgsql
as $$
declare
  v_cost bigint;
  v_place bigint;
begin
  update tenants n
     set virtual_time = greatest(n.virtual_time, (select virtual_time from fair_clock))
                        + greatest(1, ceil(p_seconds * 1e6 / n.weight))::bigint
   where n.id = p_tenant
  returning virtual_time, greatest(1, ceil(p_seconds * 1e6 / n.weight))::bigint into v_place, v_cost;
  return v_place - v_cost;
end
$$;
