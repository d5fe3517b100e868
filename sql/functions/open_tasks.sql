-- open_tasks: makes pending tasks ready: straight away, or, where the tenant has a cap, as held; the caller promotes
-- afterwards. Called by whoever releases, returns or reopens tasks and holds their jobs' rows. Answers the capabilities
-- that became ready.
create or replace function open_tasks(p_tasks tasks[], p_now timestamptz) returns int[]
language plpgsql
as $$
declare
  v_capped uuid[] := array(select t.id from unnest(p_tasks) as t where t.slot is not null);
begin
  if v_capped = '{}' then
    return queue_tasks(p_tasks, p_now);
  end if;
  update tasks set slot = 1, ready_at = p_now where id = any(v_capped);
  return queue_tasks(array(select t from unnest(p_tasks) as t where t.slot is null), p_now);
end
$$;
